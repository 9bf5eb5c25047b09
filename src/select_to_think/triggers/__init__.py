"""Triggers: one file per plug-in, one public shape (`triggers/base.py`). The table of names stands in `policies/table.py`."""
