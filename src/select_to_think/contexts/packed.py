"""Training forwards with every candidate of every group as a leaf of one packed sequence.

Equal in value and gradient to one row per candidate: a leaf takes the position that its candidate would have, and sees
the prefix strictly before it and itself. One forward per trajectory replaces one per candidate.

Non-goals: losses and loops (`training/`), inference (`transformers_backend.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from select_to_think.contexts.masks import AttentionKinds, additive
from select_to_think.models.adapter import AdapterSwitch


@dataclass(frozen=True, slots=True)
class Leaves:
    """B prefixes padded on the right to L tokens, and their leaves padded to N.

    Leaf n of row b is a candidate for the token at position `positions[b, n]`, so it sees the prefix tokens
    0 .. positions[b, n] - 1. Of the B x N leaves, row by row, those at the places `real` are no padding; the forwards
    return them only. Places, not a mask: what they select has a size that is known without looking.
    """

    prefix_ids: Tensor  # (B, L)
    ids: Tensor  # (B, N)
    positions: Tensor  # (B, N)
    real: Tensor  # (R,)


def packed_forward(model: PreTrainedModel, leaves: Leaves) -> tuple[Tensor, Tensor]:
    """One forward over [prefix, leaves] in the model's present state (adapter on or off), with gradient.

    Returns hidden states after the final norm: of the leaves, (R, H), and of the prefixes, (B, L, H).

    Naive form: for each leaf, `model(prefix[:position] + [leaf])` and the last hidden state.
    """
    length = leaves.prefix_ids.shape[1]
    prefix = torch.arange(length, device=leaves.ids.device)
    hidden: Tensor = model.base_model(
        input_ids=torch.cat([leaves.prefix_ids, leaves.ids], 1),
        position_ids=torch.cat([prefix.expand(len(leaves.ids), -1), leaves.positions], 1),
        attention_mask=AttentionKinds.of(model).masks(lambda window: packed_mask(leaves, model.dtype, window)),
        use_cache=False,
    ).last_hidden_state
    return hidden[:, length:].flatten(0, 1)[leaves.real], hidden[:, :length]


class PrefixCache(DynamicCache):
    """Keys and values of a prefix; once it is `whole`, later tokens see it and leave it as it is.

    So a layer may be computed twice on it, as activation checkpointing does.
    """

    whole = False

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Keys and values that the tokens of this forward may attend to."""
        if not self.whole:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        prefix: Any = self.layers[layer_idx]
        return torch.cat([prefix.keys, key_states], -2), torch.cat([prefix.values, value_states], -2)


def base_leaf_forward(model: PreTrainedModel, switch: AdapterSwitch, leaves: Leaves) -> Tensor:
    """Activated mode: the prefix on base weights without gradient, then one forward of all leaves with the adapter on.

    Returns the leaves' hidden states after the final norm, (R, H); gradients reach the adapter through the leaves only.
    The adapter is left active.

    Naive form: run `prefix[:position]` with the adapter off, switch it on, run the leaf on that cache.
    """
    cache = PrefixCache()  # without the config: layers that keep everything; windows are the masks' business
    switch.set_active(False)
    try:
        with torch.no_grad():
            model.base_model(input_ids=leaves.prefix_ids, past_key_values=cache, use_cache=True)
    finally:
        switch.set_active(True)
    cache.whole = True
    out = model.base_model(
        input_ids=leaves.ids,
        position_ids=leaves.positions,
        attention_mask=AttentionKinds.of(model).masks(lambda window: leaf_mask(leaves, model.dtype, window)),
        past_key_values=cache,
        use_cache=True,
    )
    hidden: Tensor = out.last_hidden_state
    return hidden.flatten(0, 1)[leaves.real]


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
    rows = leaves.real // leaves.ids.shape[1]
    return Leaves(
        prefix_ids=leaves.prefix_ids[rows],
        ids=leaves.ids.flatten()[leaves.real][:, None],
        positions=leaves.positions.flatten()[leaves.real][:, None],
        real=torch.arange(len(rows), device=rows.device),
    )


@contextmanager
def checkpointed(model: PreTrainedModel) -> Iterator[None]:
    """Within the block each layer keeps its input only, and is computed again in the backward pass.

    What `transformers` offers for this needs training mode, which would turn dropout on, and forgets the cache.
    """
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
