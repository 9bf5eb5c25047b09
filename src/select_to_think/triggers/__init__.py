"""Triggers: one file per plug-in, one public shape (`triggers/base.py`)."""
