"""Policies: one file per decoding method, straight-line code for one sequence; the names stand in `table.py`."""
