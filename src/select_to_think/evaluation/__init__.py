"""Evaluation: items, grading, running methods, measuring local sufficiency, calibrating triggers, results."""
