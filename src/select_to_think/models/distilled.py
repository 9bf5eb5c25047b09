"""A distilled SLM on disk: a LoRA adapter, and `distill.json` with its kind and the SLM it was trained for.

Non-goals: training (`training/distill.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from select_to_think.config import DistillKind
from select_to_think.files import finite, read_record, write_json_atomic
from select_to_think.models.adapter import AdapterSwitch, check_fingerprint, save_adapter

if TYPE_CHECKING:
    from select_to_think.models.loading import LoadedModel


@dataclass(frozen=True)
class About:
    """What `distill.json` holds."""

    kind: DistillKind
    slm: str
    llm: str
    slm_fingerprint: str
    llm_fingerprint: str
    training: Mapping[str, Any]
    schema: Literal[1] = 1


def save_distilled(folder: Path, switch: AdapterSwitch, about: About) -> None:
    """Fill an existing folder."""
    save_adapter(folder, switch)
    write_json_atomic(folder / "distill.json", finite(asdict(about)))


def check_distilled(folder: Path, slm: LoadedModel) -> None:
    """Whether a folder holds a distilled SLM for `slm`.

    Raises:
        S2TError: none there, of another version, or one that was trained for another SLM.
    """
    about = read_record(About, folder / "distill.json", remedy="train one with: s2t train distill")
    check_fingerprint(folder, about.slm_fingerprint, slm)
