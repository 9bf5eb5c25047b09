"""Training forwards with every candidate of every group as a leaf of one packed sequence.

Equal in value and gradient to one row per candidate: a leaf takes the position that its candidate would have, and sees
the prefix strictly before it and itself. One forward per trajectory replaces one per candidate.

Non-goals: losses and loops (`training/`), inference (`transformers_backend.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from select_to_think.contexts.masks import AttentionKinds, additive


class Switch(Protocol):
    """Turns a LoRA adapter on and off."""

    def set_active(self, active: bool) -> None:
        """Make the model's forwards use the adapter, or not."""
        ...


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
    length = leaves.prefix_ids.shape[1]
    prefix = torch.arange(length, device=leaves.ids.device)
    inputs = {
        "input_ids": torch.cat([leaves.prefix_ids, leaves.ids], 1),
        "position_ids": torch.cat([prefix.expand(len(leaves.ids), -1), leaves.positions], 1),
        "attention_mask": AttentionKinds.of(model).masks(lambda window: packed_mask(leaves, model.dtype, window)),
        "use_cache": False,
    }
    if not logits:
        return model.base_model(**inputs).last_hidden_state[:, length:][leaves.real], None
    seen: list[Tensor] = []
    hook = model.base_model.register_forward_hook(lambda _m, _a, out: seen.append(out.last_hidden_state))
    try:
        prefix_logits = model(**inputs, logits_to_keep=prefix).logits
    finally:
        hook.remove()
    return seen[0][:, length:][leaves.real], prefix_logits


def base_leaf_forward(model: PreTrainedModel, switch: Switch, leaves: Leaves) -> Tensor:
    """Activated mode: the prefix on base weights without gradient, then one forward of all leaves with the adapter on.

    Returns the leaves' hidden states after the final norm, (real leaves, H); gradients reach the adapter through the
    leaves only. The adapter is left active.

    Naive form: run `prefix[:position]` with the adapter off, switch it on, run the leaf on that cache.
    """
    cache = DynamicCache()  # without the config: layers that keep everything; windows are the masks' business
    switch.set_active(False)
    try:
        with torch.no_grad():
            model.base_model(input_ids=leaves.prefix_ids, past_key_values=cache, use_cache=True)
    finally:
        switch.set_active(True)
    out = model.base_model(
        input_ids=leaves.ids,
        position_ids=leaves.positions,
        attention_mask=AttentionKinds.of(model).masks(lambda window: leaf_mask(leaves, model.dtype, window)),
        past_key_values=cache,
        use_cache=True,
    )
    hidden: Tensor = out.last_hidden_state
    return hidden[leaves.real]


def leaf_mask(leaves: Leaves, dtype: torch.dtype, window: int | None) -> Tensor:
    """Additive float mask (B, 1, N, L + N): each leaf sees the prefix before its position, and itself.

    `window` counts positions, itself included. Float, because a boolean mask is silently wrong with eager attention.
    """
    slots = torch.arange(leaves.prefix_ids.shape[1], device=leaves.ids.device)  # (L,)
    before = slots < leaves.positions[..., None]  # (B, N, L)
    if window is not None:
        before &= slots > leaves.positions[..., None] - window
    batch, count = leaves.ids.shape
    itself = torch.eye(count, dtype=torch.bool, device=leaves.ids.device).expand(batch, -1, -1)
    return additive(torch.cat([before, itself], -1), dtype)


def packed_mask(leaves: Leaves, dtype: torch.dtype, window: int | None) -> Tensor:
    """Additive float mask (B, 1, L + N, L + N): a causal prefix above the rows of `leaf_mask`."""
    batch, length = leaves.prefix_ids.shape
    slots = torch.arange(length, device=leaves.ids.device)
    causal = slots <= slots[:, None]  # (L, L)
    if window is not None:
        causal &= slots > slots[:, None] - window
    rows = torch.nn.functional.pad(causal, (0, leaves.ids.shape[1])).expand(batch, 1, -1, -1)
    return torch.cat([additive(rows[:, 0], dtype), leaf_mask(leaves, dtype, window)], 2)


def plain_forward(model: PreTrainedModel, rows: Leaves) -> Tensor:
    """One ordinary causal row per leaf, in the model's present state: (rows, H), the reference of `packed_forward`.

    `rows` holds one leaf a row (see `one_row_per_leaf`).
    """
    ids = torch.nn.functional.pad(rows.prefix_ids, (0, 1)).scatter(1, rows.positions, rows.ids)  # (R, L + 1)
    hidden: Tensor = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[torch.arange(len(ids), device=ids.device), rows.positions[:, 0]]


def one_row_per_leaf(leaves: Leaves) -> Leaves:
    """The same leaves, each with a copy of its prefix: as many rows as leaves, N = 1."""
    rows = torch.arange(len(leaves.ids), device=leaves.ids.device).repeat_interleave(leaves.counts)
    return Leaves(
        prefix_ids=leaves.prefix_ids[rows],
        ids=leaves.ids[leaves.real][:, None],
        positions=leaves.positions[leaves.real][:, None],
        counts=torch.ones_like(rows),
    )
