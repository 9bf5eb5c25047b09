"""The bundled model pair: its problems, its text, its tokenizer and the recipe that trains it.

Non-goals: decoding, evaluation and scorer training. Nothing in the library proper imports this package except the
commands that offer the pair by name.
"""
