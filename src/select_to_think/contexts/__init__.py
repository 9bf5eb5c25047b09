"""Contexts: one model's view of one sequence, and the backends that make them."""
