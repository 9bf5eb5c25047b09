"""The trained verifier's network on disk and in memory: hidden state of the SLM in, logit of "option B is better" out.

A folder holds `verifier.safetensors` (the layers, batch norm folded in) and `verifier.json` (fingerprint of the SLM,
the prompt that it was trained behind, what the training reported).

Non-goals: training (`training/verifier.py`), judging (`verifiers/mlp.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from select_to_think.files import read_json
from select_to_think.models.adapter import check_fingerprint
from select_to_think.models.layers import Layers, apply_layers, load_layers, save_layers
from select_to_think.models.loading import LoadedModel
from select_to_think.structures import Floats, S2TError

SCHEMA = 1
NAME = "verifier"
REMEDY = "train one with: s2t train verifier"


@dataclass(frozen=True)
class VerifierHead:
    """h -> 2h -> h -> h/2 -> 1 with ReLU between; its sigmoid is the probability that option B is the better one."""

    layers: Layers
    prompt: tuple[str, str]  # template and opening that it was trained behind
    training: dict[str, Any]  # what the training reported

    def __call__(self, hidden: Floats) -> Floats:
        """Logits of hidden states (last layer after the final norm), (P, H) -> (P,)."""
        return apply_layers(self.layers, hidden)


def save_verifier(folder: Path, head: VerifierHead, slm_fingerprint: str) -> None:
    """Write the two files into an existing folder."""
    save_layers(folder / f"{NAME}.safetensors", head.layers)
    template, opening = head.prompt
    about = {
        "schema": SCHEMA,
        "slm_fingerprint": slm_fingerprint,
        "template": template,
        "opening": opening,
        "training": head.training,
    }
    (folder / f"{NAME}.json").write_text(json.dumps(about) + "\n")


def load_verifier(path: str | Path, slm: LoadedModel, prompt: tuple[str, str]) -> VerifierHead:
    """Read a network that was trained for `slm` behind `prompt` (template and opening).

    Raises:
        S2TError: none there, a damaged file, or one that was trained for another SLM or prompt.
    """
    folder = Path(path)
    about = read_json(folder / f"{NAME}.json", remedy=REMEDY)
    if about.get("schema") != SCHEMA:
        raise S2TError(f"{folder} has verifier schema {about.get('schema')}, this version reads {SCHEMA}; {REMEDY}")
    check_fingerprint(folder, str(about.get("slm_fingerprint")), slm)
    if (about.get("template"), about.get("opening")) != prompt:
        raise S2TError(f"{folder} was trained behind another prompt: leave --verifier-template alone, or {REMEDY}")
    layers = load_layers(folder / f"{NAME}.safetensors", slm, remedy=REMEDY)
    return VerifierHead(layers, prompt, about.get("training", {}))
