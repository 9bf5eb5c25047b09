"""Verifiers: one file per plug-in, one public shape (`verifiers/base.py`)."""
