"""S2T-Local, S2T and takeover inside vLLM: the trigger in its sampler, the rest in its server. See docs/engines.md.

Nothing of the package imports this; vLLM does.
"""
