"""Models: loading, vocabulary, prompts, and what is trained on top (scorer, trigger head)."""
