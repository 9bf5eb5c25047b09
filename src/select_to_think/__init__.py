"""Select to Think: small language models that reason with a large one's judgement."""

__version__ = "0.1.0"
