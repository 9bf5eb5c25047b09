"""A distilled SLM on disk: a LoRA adapter, and `distill.json` with its kind and the SLM it was trained for.

Non-goals: training (`training/distill.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from select_to_think.files import read_json
from select_to_think.models.adapter import AdapterSwitch, check_fingerprint, save_adapter
from select_to_think.structures import S2TError

if TYPE_CHECKING:
    from select_to_think.models.loading import LoadedModel

SCHEMA = 1


def save_distilled(folder: Path, switch: AdapterSwitch, description: dict[str, Any]) -> None:
    """Fill an existing folder. `description` is the content of `distill.json`; see `training/distill.py`."""
    save_adapter(folder, switch)
    (folder / "distill.json").write_text(json.dumps({"schema": SCHEMA, **description}, indent=2) + "\n")


def check_distilled(folder: Path, slm: LoadedModel) -> None:
    """Whether a folder holds a distilled SLM for `slm`.

    Raises:
        S2TError: none there, of another version, or one that was trained for another SLM.
    """
    about = read_json(folder / "distill.json", remedy="train one with: s2t train distill")
    if about.get("schema") != SCHEMA:
        raise S2TError(f"{folder} is of schema {about.get('schema')}, this version reads {SCHEMA}: train it again")
    check_fingerprint(folder, str(about.get("slm_fingerprint")), slm)
