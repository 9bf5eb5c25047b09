"""Attention of a flat forward: keys and values go into the memory, and each group of the step attends to its rows.

Registered with `transformers` as an attention function; the step comes as its argument `flat`. Query heads that share a
key-value head are stacked as more queries of that head, so nothing is repeated.

Non-goals: which tokens stand where (`layout.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from select_to_think.contexts.kv import KVMemory, LayerShape
from select_to_think.contexts.layout import Group, Step

NAME = "select_to_think"


@dataclass(frozen=True)
class Flat:
    """What attention needs to know of one forward."""

    step: Step
    memory: KVMemory | None  # None: the tokens see each other causally, and nothing is kept
    windows: Mapping[int, int | None]  # layer -> its sliding window in positions
    shapes: dict[int, LayerShape]  # layer -> what it stores; filled here


def flat_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    flat: Flat,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """(1, H, T, D) queries and (1, h, T, D) keys and values of a step -> (1, T, H, D)."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    flat.shapes[layer] = LayerShape(key.shape[1], key.shape[-1], value.shape[-1])
    extras = scaling, softcap, s_aux
    if flat.memory is None:
        return attend(query, key, value, None, True, *extras).transpose(1, 2), None
    flat.memory.write(layer, flat.step.slots, key[0], value[0])
    outputs = [
        attend_group(group, flat.memory, layer, query[0, :, group.begin : group.end], flat.windows[layer], *extras)
        for group in flat.step.groups
    ]
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


def attend_group(
    group: Group,
    memory: KVMemory,
    layer: int,
    query: Tensor,
    window: int | None,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """(H, B * W, D) queries of a group -> (B * W, H, D)."""
    heads, _, size = query.shape
    keys, values = (
        memory.read(layer, part, group.size, group.span, group.rows).transpose(1, 2) for part in (0, 1)
    )  # (B, h, span, D)
    queries = query.view(heads, -1, group.width, size).transpose(0, 1)  # (B, H, W, D)
    extras = scaling, softcap, sinks
    if group.causal and (window is None or group.span <= window) and group.width > 1:
        out = attend(queries, keys, values, None, True, *extras)
    else:
        per_head = heads // keys.shape[1]
        stacked = queries.reshape(len(queries), keys.shape[1], per_head * group.width, size)
        mask = group.mask(window, query.dtype, per_head)
        out = attend(stacked, keys, values, mask, False, *extras)
        out = out.reshape(len(queries), heads, group.width, -1)
    return out.transpose(1, 2).reshape(-1, heads, out.shape[-1])


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """(B, H, W, D) x (B, h, S, D) -> (B, H, W, D). Without `causal`, the H * W queries may be stacked: (B, h, n, D)."""
    if causal and key.shape[1] != query.shape[1]:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    if softcap is None and sinks is None:
        return nn.functional.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scaling)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    if sinks is None:
        return scores.float().softmax(-1).to(value.dtype) @ value
    per_query = sinks.view(1, key.shape[1], -1, 1).expand(
        len(scores), -1, -1, scores.shape[-2] * key.shape[1] // len(sinks)
    )
    whole = torch.cat([scores.float(), per_query.reshape(*scores.shape[:-1], 1).float()], -1)
    return whole.softmax(-1)[..., :-1].to(value.dtype) @ value


AttentionInterface.register(NAME, flat_attention)
