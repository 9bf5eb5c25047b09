"""The bundled model pair: its problems and its checkpoints. The recipe that trained them is `recipe/` of a checkout.

Non-goals: decoding, evaluation and scorer training. Nothing in the library proper imports this package except the
commands that offer the pair by name.
"""
