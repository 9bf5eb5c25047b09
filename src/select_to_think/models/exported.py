"""What `s2t export` says of its folder, and how a session finds what lies beside an exported SLM.

Non-goals: writing it (`training/export.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from select_to_think.config import PairConfig, ScorerForm
from select_to_think.files import read_record

MANIFEST = "s2t.json"
SCORER, DISTILL, CALIBRATION = "scorer", "distill", "calibration.json"  # beside it, as far as the format has them


@dataclass(frozen=True)
class ScoreRows(ScorerForm):
    """How an engine scores: the bins' distribution is the softmax over the logits of `bin_ids`."""

    bin_ids: Sequence[int]  # rows of the vocabulary head, in the order of the bins


@dataclass(frozen=True)
class Exported:
    """What `s2t.json` holds."""

    format: Literal["peft", "merged", "vllm", "gguf"]
    method: str
    slm: str
    slm_fingerprint: str  # of the SLM that was exported, not of its copy
    reserved_ids: Sequence[int]  # never to be emitted; those without a bin are free
    stop_ids: Sequence[int]
    rows: ScoreRows | None = None
    copy_fingerprint: str = ""  # vllm, merged: of the copy, for which what lies beside it is made
    schema: Literal[1] = 1

    @property
    def pause_id(self) -> int:
        """A reserved id without a bin, with which an engine marks a divergence point; -1 if there is none."""
        used = set(self.rows.bin_ids if self.rows else ())
        return next((each for each in self.reserved_ids if each not in used), -1)


def read_exported(folder: Path) -> Exported:
    """What an exported folder is. Raises S2TError if it is none, or damaged."""
    return read_record(Exported, folder / MANIFEST, remedy="run `s2t export` again")


def with_exported(config: PairConfig) -> PairConfig:
    """The configuration, with what lies beside an exported SLM where nothing else was given.

    Raises:
        S2TError: it is no longer what was exported.
    """
    if config.slm is None:
        return config
    path = Path(config.slm)
    folder = path.parent if path.is_file() else path
    if not (folder / MANIFEST).is_file():
        return config
    read_exported(folder)

    def beside(given: str | None, name: str) -> str | None:
        return str(folder / name) if given is None and (folder / name).exists() else given

    return replace(
        config,
        scorer=beside(config.scorer, SCORER),
        distill=beside(config.distill, DISTILL),
        calibration=beside(config.calibration, CALIBRATION),
    )
