"""Selectors: one file per plug-in, one public shape (`selectors/base.py`)."""
