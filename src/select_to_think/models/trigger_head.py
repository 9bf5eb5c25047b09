"""The learned trigger's head on disk and in memory: hidden state of the SLM in, logit of "divergence point" out.

A folder holds `trigger_head.safetensors` (the layers) and `trigger_head.json` (size, fingerprint of the SLM, quantiles
of the logit on held-out steps). Runs in numpy: the hidden states are on the host already, and a head is tiny.

Non-goals: training (`training/trigger.py`), deciding when to fire (`triggers/`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from select_to_think.files import finite, read_record, write_json_atomic
from select_to_think.models.adapter import check_fingerprint
from select_to_think.models.layers import Layers, apply_layers, load_layers, save_layers
from select_to_think.structures import Floats

if TYPE_CHECKING:
    from select_to_think.models.loading import LoadedModel

QUANTILES = 1001
REMEDY = "train one with: s2t train trigger"


@dataclass(frozen=True)
class About:
    """What `trigger_head.json` holds."""

    hidden_size: int
    slm_fingerprint: str
    quantiles: Sequence[float]
    training: Mapping[str, Any]
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        """Raise ValueError unless all quantiles are there."""
        if len(self.quantiles) != QUANTILES:
            raise ValueError(f"there must be {QUANTILES} quantiles")


@dataclass(frozen=True)
class TriggerHead:
    """W2 relu(W1 h + b1) + b2, or W1 h + b1 without a hidden layer; all fp32."""

    layers: Layers
    quantiles: Floats  # (1001,) of the logit on held-out steps: 0, 0.001, ... 1

    def __call__(self, hidden: Floats) -> Floats:
        """Logits of hidden states (last layer after the final norm), (P, H) -> (P,)."""
        return apply_layers(self.layers, hidden)


def save_trigger_head(folder: Path, head: TriggerHead, slm: LoadedModel, training: Mapping[str, Any]) -> None:
    """Write the two files into an existing folder."""
    save_layers(folder / "trigger_head.safetensors", head.layers)
    quantiles = head.quantiles.astype(float).tolist()
    about = About(head.layers[0][0].shape[1], slm.fingerprint, quantiles, training)
    write_json_atomic(folder / "trigger_head.json", finite(asdict(about)))


def load_trigger_head(path: str | Path, slm: LoadedModel) -> TriggerHead:
    """Read a head that was trained for `slm`.

    Raises:
        S2TError: no head there, a damaged file, or one that was trained for another SLM.
    """
    folder = Path(path)
    about = read_record(About, folder / "trigger_head.json", remedy=REMEDY)
    check_fingerprint(folder, about.slm_fingerprint, slm)
    layers = load_layers(folder / "trigger_head.safetensors", slm, remedy=REMEDY)
    return TriggerHead(layers, np.array(about.quantiles, np.float32))
