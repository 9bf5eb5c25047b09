"""The S2T-Local scorer on disk: a LoRA adapter, score rows, and what they were trained for.

A scorer folder holds the adapter (`models/adapter.py`), `score_head.safetensors` with `bins` (bins, hidden_size) and
`anchor` (), and `scorer.json` with mode, score, temperature and the fingerprint of the SLM it was trained on.

Non-goals: training (`training/`), the arithmetic of the scores (`probability.expected_bin`, `selectors/`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from select_to_think.config import ScoreKind, ScorerMode
from select_to_think.files import read_json
from select_to_think.models.adapter import AdapterSwitch, check_fingerprint, read_tensors, save_adapter
from select_to_think.structures import S2TError

if TYPE_CHECKING:
    from select_to_think.models.loading import LoadedModel

SCHEMA = 1


@dataclass(frozen=True)
class Scorer:
    """The part of a scorer that is not the adapter."""

    mode: ScorerMode
    score: ScoreKind
    score_temperature: float
    bin_rows: Tensor  # (bins, hidden_size), fp32
    anchor: float  # multiple of log p_SLM; unused by the score "bins"
    path: Path


def save_scorer(
    folder: Path, switch: AdapterSwitch, bin_rows: Tensor, anchor: float, description: dict[str, Any]
) -> None:
    """Write a scorer folder. `description` is the content of `scorer.json`; see `training/scorer.py`.

    The caller makes it atomic (a temporary folder, then a rename).
    """
    save_adapter(folder, switch)
    head = {"bins": bin_rows.detach().float().cpu().contiguous(), "anchor": torch.tensor(anchor, dtype=torch.float32)}
    save_file(head, folder / "score_head.safetensors", metadata={"format": "pt"})
    (folder / "scorer.json").write_text(json.dumps({"schema": SCHEMA, **description}, indent=2) + "\n")


def load_scorer(path: str | Path, slm: LoadedModel) -> Scorer:
    """Read mode, score and score rows, on the CPU; the model is not touched.

    Raises:
        S2TError: no scorer there, a damaged file, or one that was trained for another SLM.
    """
    folder = Path(path)
    about = read_json(folder / "scorer.json", remedy="train one with: s2t train scorer")
    try:
        schema, mode, score = about["schema"], about["mode"], about["score"]
        temperature, fingerprint = float(about["score_temperature"]), about["slm_fingerprint"]
    except (KeyError, TypeError, ValueError) as error:
        raise S2TError(f"{folder / 'scorer.json'} lacks a valid {error}: train the scorer again") from error
    if schema != SCHEMA:
        raise S2TError(f"{folder} has scorer schema {schema}, this version reads {SCHEMA}: train the scorer again")
    check_fingerprint(folder, fingerprint, slm)
    head = read_tensors(folder / "score_head.safetensors")
    rows, hidden_size = head.get("bins"), slm.model.config.get_text_config().hidden_size
    if rows is None or "anchor" not in head or rows.ndim != 2 or rows.shape[1] != hidden_size:
        raise S2TError(f"{folder / 'score_head.safetensors'} does not fit {slm.name}: train the scorer again")
    return Scorer(mode, score, temperature, rows, float(head["anchor"]), folder)
