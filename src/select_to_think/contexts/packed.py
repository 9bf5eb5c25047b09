"""Training forwards with every candidate of every group as a leaf of one packed sequence.

Equal in value and gradient to one row per candidate: a leaf takes the position that its candidate would have, sees the
prefix strictly before that position and itself, and nothing else. One forward per trajectory replaces one per candidate.

Non-goals: losses and loops (`training/`), inference (`transformers_backend.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from select_to_think.contexts.transformers_backend import Switch, layer_types


@dataclass(frozen=True, slots=True)
class Leaves:
    """B prefixes padded on the right to L tokens, and their leaves padded to N.

    Leaf n of row b is a candidate for the token at position `positions[b, n]`, so it sees the prefix tokens
    0 .. positions[b, n] - 1. Row b has `counts[b]` real leaves; the forwards return real leaves only, row by row.
    """

    prefix_ids: Tensor  # (B, L)
    ids: Tensor  # (B, N)
    positions: Tensor  # (B, N)
    counts: Tensor  # (B,)

    @property
    def real(self) -> Tensor:
        """(B, N) bool: not padding."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.counts[:, None]


def packed_forward(model: PreTrainedModel, leaves: Leaves, *, logits: bool = False) -> tuple[Tensor, Tensor | None]:
    """One forward over [prefix, leaves] in the model's present state (adapter on or off), with gradient.

    Returns the leaves' hidden states after the final norm, (real leaves, H), and, if asked, the prefix's logits
    (B, L, V). The vocabulary head never runs on leaves.

    Naive form: for each leaf, `model(prefix[:position] + [leaf])` and the last hidden state.
    """
    batch, length = leaves.prefix_ids.shape
    index = torch.arange(length, device=leaves.ids.device).expand(batch, length)  # (B, L)
    positions = torch.cat([index, leaves.positions], 1)  # (B, L + N)
    limit = torch.cat([index, leaves.positions - 1], 1)  # (B, L + N)
    inputs = {
        "input_ids": torch.cat([leaves.prefix_ids, leaves.ids], 1),
        "position_ids": positions,
        "attention_mask": attention_masks(model, lambda window: leaf_mask(positions, limit, length, model.dtype, window)),
        "use_cache": False,
    }
    if not logits:
        return model.base_model(**inputs).last_hidden_state[:, length:][leaves.real], None
    seen: list[Tensor] = []
    hook = model.base_model.register_forward_hook(lambda _m, _a, out: seen.append(out.last_hidden_state))
    try:
        prefix_logits = model(**inputs, logits_to_keep=torch.arange(length, device=leaves.ids.device)).logits
    finally:
        hook.remove()
    return seen[0][:, length:][leaves.real], prefix_logits


def base_leaf_forward(model: PreTrainedModel, switch: Switch, leaves: Leaves) -> Tensor:
    """Activated mode: the prefix on base weights without gradient, then one forward of all leaves with the adapter on.

    Returns the leaves' hidden states after the final norm, (real leaves, H); gradients reach the adapter through the
    leaves only. Leaves the adapter active.

    Naive form: run `prefix[:position]` with the adapter off, switch it on, run the leaf on that cache.
    """
    length = leaves.prefix_ids.shape[1]
    cache = DynamicCache()  # without the config: plain layers that keep everything, windows are the masks' business
    switch.set_active(False)
    try:
        with torch.no_grad():
            model.base_model(input_ids=leaves.prefix_ids, past_key_values=cache, use_cache=True)
    finally:
        switch.set_active(True)
    masks = attention_masks(
        model, lambda window: leaf_mask(leaves.positions, leaves.positions - 1, length, model.dtype, window)
    )
    out = model.base_model(
        input_ids=leaves.ids,
        position_ids=leaves.positions,
        attention_mask=masks,
        past_key_values=cache,
        use_cache=True,
    )
    return out.last_hidden_state[leaves.real]


def leaf_mask(positions: Tensor, limit: Tensor, length: int, dtype: torch.dtype, window: int | None) -> Tensor:
    """Additive float mask (B, 1, T, L + N) for T queries, of which the last N are leaves (T = N or T = L + N).

    A query at `positions` (B, T) sees the prefix slots up to `limit` (B, T), within `window` positions, and a leaf sees
    itself. A float mask, because a boolean one is silently wrong with eager attention.
    """
    count = positions.shape[1] if positions.shape[1] <= length else positions.shape[1] - length
    return _leaf_mask(positions, limit, length, count, dtype, window)
