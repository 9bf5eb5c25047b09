"""The attention kinds of a model, and masks for training (`packed.py`) in the form that its forward takes.

Non-goals: what may be seen, which the callers say as booleans; the masks of decoding (`layout.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from select_to_think.structures import S2TError

SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class AttentionKinds:
    """The attention kinds of a model and the window of each, in positions (None: everything is seen)."""

    windows: Mapping[str, int | None]
    by_kind: bool  # models that list their layer types take a dictionary of masks, also when all are of one kind

    @classmethod
    def of(cls, model: PreTrainedModel) -> AttentionKinds:
        """Read them off the configuration.

        Raises:
            S2TError: a layer whose state cannot be rolled back (state-space, linear attention ...), with its name.
        """
        config = model.config.get_text_config()
        types = getattr(config, "layer_types", None)
        kinds = sorted(set(types)) if types is not None else [single_kind(model)]
        for kind in kinds:
            if kind not in SUPPORTED_LAYERS:
                raise S2TError(
                    f"{config.model_type} has {kind} layers, whose cache cannot be rolled back: "
                    "choose a model with full or sliding-window attention in every layer"
                )
        windows = {kind: config.sliding_window if kind == "sliding_attention" else None for kind in kinds}
        return cls(windows, types is not None)

    def by_layer(self, config: Any) -> dict[int, int | None]:
        """The window of each layer."""
        types = getattr(config, "layer_types", None) or [next(iter(self.windows))] * config.num_hidden_layers
        return {layer: self.windows[kind] for layer, kind in enumerate(types[: config.num_hidden_layers])}

    def masks(self, build: Callable[[int | None], Tensor | None]) -> Any:
        """`build(window)` for each kind, in the form that the model's forward takes."""
        masks = {kind: build(window) for kind, window in self.windows.items()}
        return masks if self.by_kind else next(iter(masks.values()))


def single_kind(model: PreTrainedModel) -> str:
    """The kind of a model that does not list its layers: the name of a stateful model stands for itself."""
    config = model.config.get_text_config()
    if getattr(model, "_is_stateful", False):
        return str(config.model_type)
    return "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, T, S) bool -> (B, 1, T, S): 0 where visible, the type's minimum elsewhere."""
    mask = torch.full(visible.shape, torch.finfo(dtype).min, dtype=dtype, device=visible.device)
    return mask.masked_fill_(visible, 0)[:, None]
