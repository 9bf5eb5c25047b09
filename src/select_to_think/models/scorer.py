"""The S2T-Local scorer on disk: a LoRA adapter, score rows, and what they were trained for.

A scorer folder holds the adapter (`models/adapter.py`), `score_head.safetensors` with `bins` (bins, hidden_size) and
`anchor` (), and `scorer.json` with mode, score, temperature and the fingerprint of the SLM it was trained on.

Non-goals: training (`training/`), the arithmetic of the scores (`probability.expected_bin`, `selectors/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from select_to_think.config import ScoreKind, ScorerForm, ScorerMode
from select_to_think.files import finite, read_record, write_json_atomic
from select_to_think.models.adapter import AdapterSwitch, check_fingerprint, read_tensors, save_adapter
from select_to_think.structures import S2TError

if TYPE_CHECKING:
    from select_to_think.models.loading import LoadedModel

REMEDY = "train one with: s2t train scorer"


def has_score(mode: ScorerMode, score: ScoreKind) -> bool:
    """Whether a mode can have a score: `adapted` reads a context of the adapter's own, beside the SLM's."""
    return score != "adapted" or mode == "proposer"


@dataclass(frozen=True)
class About:
    """What `scorer.json` holds."""

    mode: ScorerMode
    score: ScoreKind
    bins: int
    score_temperature: float
    slm_fingerprint: str
    slm: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    merged: bool = False  # its adapter is in the SLM's weights, not in the folder
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        """Raise ValueError for a temperature that scores cannot be divided by, or a score that the mode cannot have."""
        if self.score_temperature <= 0:
            raise ValueError("the score_temperature must be above 0")
        if not has_score(self.mode, self.score):
            raise ValueError(f"the mode {self.mode} has no score {self.score}")


@dataclass(frozen=True)
class Scorer(ScorerForm):
    """The part of a scorer that is not the adapter."""

    bin_rows: Tensor  # (bins, hidden_size), fp32
    path: Path
    merged: bool = False  # the SLM's weights have its adapter


def save_scorer(folder: Path, switch: AdapterSwitch, bin_rows: Tensor, anchor: float, about: About) -> None:
    """Write a scorer folder. The caller makes it atomic (a temporary folder, then a rename)."""
    save_adapter(folder, switch)
    head = {"bins": bin_rows.detach().float().cpu().contiguous(), "anchor": torch.tensor(anchor, dtype=torch.float32)}
    save_file(head, folder / "score_head.safetensors", metadata={"format": "pt"})
    write_json_atomic(folder / "scorer.json", finite(asdict(about)))


def load_scorer(path: str | Path, slm: LoadedModel) -> Scorer:
    """Read mode, score and score rows, on the CPU; the model is not touched.

    Raises:
        S2TError: no scorer there, a damaged file, or one that was trained for another SLM.
    """
    folder = Path(path)
    about = read_record(About, folder / "scorer.json", remedy=REMEDY)
    check_fingerprint(folder, about.slm_fingerprint, slm)
    head = read_tensors(folder / "score_head.safetensors")
    hidden_size = slm.model.config.get_text_config().hidden_size
    if {name: tuple(each.shape) for name, each in head.items()} != {"bins": (about.bins, hidden_size), "anchor": ()}:
        raise S2TError(f"{folder / 'score_head.safetensors'} does not fit {slm.name}; {REMEDY}")
    form = about.mode, about.score, about.score_temperature, float(head["anchor"])
    return Scorer(*form, head["bins"], folder, about.merged)
