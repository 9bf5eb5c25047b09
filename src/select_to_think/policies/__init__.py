"""Policies: one file per decoding method, straight-line code for one sequence. The table of names is `policies/table.py`."""
