"""The trained verifier's network on disk and in memory: hidden state of the SLM in, logit of "option B is better" out.

A folder holds `verifier.safetensors` (the layers, batch norm folded in) and `verifier.json` (fingerprint of the SLM,
the prompt that it was trained behind, what the training reported).

Non-goals: training (`training/verifier.py`), judging (`verifiers/mlp.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from select_to_think.files import finite, read_record, write_json_atomic
from select_to_think.models.adapter import check_fingerprint
from select_to_think.models.layers import Layers, apply_layers, load_layers, save_layers
from select_to_think.models.loading import LoadedModel
from select_to_think.structures import Floats, S2TError

NAME = "verifier"
REMEDY = "train one with: s2t train verifier"


@dataclass(frozen=True)
class About:
    """What `verifier.json` holds."""

    slm_fingerprint: str
    template: str
    opening: str
    training: Mapping[str, Any]
    schema: Literal[1] = 1


@dataclass(frozen=True)
class VerifierHead:
    """h -> 2h -> h -> h/2 -> 1 with ReLU between; its sigmoid is the probability that option B is the better one."""

    layers: Layers
    prompt: tuple[str, str]  # template and opening that it was trained behind
    training: Mapping[str, Any]  # what the training reported

    def __call__(self, hidden: Floats) -> Floats:
        """Logits of hidden states (last layer after the final norm), (P, H) -> (P,)."""
        return apply_layers(self.layers, hidden)


def save_verifier(folder: Path, head: VerifierHead, slm_fingerprint: str) -> None:
    """Write the two files into an existing folder."""
    save_layers(folder / f"{NAME}.safetensors", head.layers)
    write_json_atomic(folder / f"{NAME}.json", finite(asdict(About(slm_fingerprint, *head.prompt, head.training))))


def load_verifier(path: str | Path, slm: LoadedModel, prompt: tuple[str, str]) -> VerifierHead:
    """Read a network that was trained for `slm` behind `prompt` (template and opening).

    Raises:
        S2TError: none there, a damaged file, or one that was trained for another SLM or prompt.
    """
    folder = Path(path)
    about = read_record(About, folder / f"{NAME}.json", remedy=REMEDY)
    check_fingerprint(folder, about.slm_fingerprint, slm)
    if (about.template, about.opening) != prompt:
        raise S2TError(f"{folder} was trained behind another prompt: leave --verifier-template alone, or {REMEDY}")
    layers = load_layers(folder / f"{NAME}.safetensors", slm, remedy=REMEDY)
    return VerifierHead(layers, prompt, about.training)
