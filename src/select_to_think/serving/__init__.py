"""An OpenAI-compatible server of one pair, and its page."""
