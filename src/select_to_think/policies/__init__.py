"""Policies: one file per decoding method, straight-line code for one sequence; their names stand in `methods.py`."""
