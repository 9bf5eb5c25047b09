"""The recipe of the bundled pairs: their text, their tokenizers, their training from scratch.

It is run from a checkout (`python -m recipe`) and is not part of the installed package, which holds the problems
(`select_to_think.pairs`) and the trained checkpoints.

Non-goals: the scorer and everything else that `s2t train` makes of a finished pair.
"""
