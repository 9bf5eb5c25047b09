"""From ragged requests to one flat forward: all new tokens of a step in one sequence, without padding.

Each context brings *segments*: consecutive new tokens of its sequence, or the leaves of a branch. A token sees the
slots of its context before the segment and, in the segment, what it goes on with: for a sequence all before it, for
a leaf the tokens of that leaf, not its siblings. Leaves are written behind the sequence and stand at the position
after it.

Segments are sorted so that tokens of one adapter stand together, and segments of equal width over extents of equal size
are one *group*, which attends in one call.

Non-goals: tensors of the model; this file computes only what the forward is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """New tokens of one context. Slots count from the beginning of its extent; `start`, `size` say where that is."""

    start: int
    size: int
    prefix: int  # slots before `first` that every token sees
    first: int  # slot of the first token
    tokens: Sequence[int]
    leaves: tuple[int, ...] = ()  # lengths of the leaves that `tokens` are made of; () for a sequence
    adapter: str | None = None

    @property
    def width(self) -> int:
        """New tokens."""
        return len(self.tokens)

    @property
    def end(self) -> int:
        """Behind the last slot."""
        return self.first + len(self.tokens)

    def own_starts(self) -> list[int]:
        """The first slot behind the prefix that each token sees."""
        if not self.leaves:
            return [self.prefix] * len(self.tokens)
        begins = accumulate(self.leaves, initial=self.first)
        return [begin for begin, length in zip(begins, self.leaves, strict=False) for _ in range(length)]

    def positions(self) -> Iterable[int]:
        """Places of the tokens in the sequence."""
        if not self.leaves:
            return range(self.first, self.end)
        return (self.prefix + place for length in self.leaves for place in range(length))


@dataclass
class Group:
    """B segments of W tokens over extents of one size; they are tokens `begin` ... `end` of the forward.

    `rows` is a range where the extents lie side by side (a view, no copy), or row indices. A range may cover rows that
    do not take part; `places` then says which of its rows do.
    """

    begin: int
    end: int
    width: int
    size: int
    span: int  # slots read
    rows: slice | Tensor
    places: Tensor | None
    count: int  # rows that are computed
    causal: bool  # query t sees exactly the slots 0 ... t
    open: bool  # every query sees every slot of the span
    prefix: Tensor  # (B, 1)
    own_start: Tensor  # (B, W)
    slots: Tensor  # (B, W) of the queries themselves
    positions: Tensor  # (B, W)
    known: dict[tuple[int | None, int], Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype, per_head: int) -> Tensor | None:
        """Additive mask (rows, 1, per_head * W, span), for `per_head` query heads stacked behind each other.

        0 where visible, the type's minimum elsewhere. None where nothing is hidden. `window` counts positions: a query
        at position p sees p - window + 1 ... p.
        """
        if self.open and (window is None or self.span <= window):
            return None
        key = window, per_head
        if key not in self.known:
            self.known[key] = self.build(window, dtype, per_head)
        return self.known[key]

    def build(self, window: int | None, dtype: torch.dtype, per_head: int) -> Tensor:
        slots = torch.arange(self.span, device=self.slots.device)
        before = slots < self.prefix[..., None]  # (B, W or 1, span)
        own = (slots >= self.own_start[..., None]) & (slots <= self.slots[..., None])
        if window is not None:
            oldest = self.positions[..., None] - window  # slots before the leaves are positions
            before = before & (slots > oldest)
            own &= slots - self.slots[..., None] > -window
        mask = torch.full((len(self.slots), self.width, self.span), torch.finfo(dtype).min, dtype=dtype)
        mask = mask.to(slots.device).masked_fill_(before | own, 0)
        if self.places is not None:
            mask = mask.new_zeros(self.count, self.width, self.span).index_copy_(0, self.places, mask)
        return mask.repeat(1, per_head if self.width > 1 else 1, 1)[:, None]


@dataclass(frozen=True)
class Step:
    """One flat forward of T tokens."""

    ids: Tensor  # (1, T)
    positions: Tensor  # (1, T)
    slots: Tensor  # (T,) of the memory
    groups: list[Group]
    adapters: list[tuple[str, int, int]]  # (adapter, first token, behind the last)
    offsets: list[int]  # where each segment's tokens begin, in the order in which the segments were given


def lay_out(segments: Sequence[Segment], device: torch.device) -> Step:
    """Arrange segments (each at least one token) as one forward."""
    keys = [(s.adapter or "", s.width, s.size, bool(s.leaves), bool(s.prefix), s.start) for s in segments]
    order = sorted(range(len(segments)), key=keys.__getitem__)
    ordered = [segments[i] for i in order]
    begins = list(accumulate((segment.width for segment in ordered), initial=0))
    columns: tuple[list[int], ...] = ([], [], [], [], [], [])
    for segment in ordered:
        rows = (
            segment.tokens,
            segment.positions(),
            range(segment.start + segment.first, segment.start + segment.end),
            range(segment.first, segment.end),
            segment.own_starts(),
            [segment.prefix] * segment.width,
        )
        for column, values in zip(columns, rows, strict=True):
            column.extend(values)
    ids, positions, places, own, own_starts, prefixes = torch.tensor(columns).to(device)  # (6, T): one transfer
    groups, adapters, at = [], [], 0
    for _, members in groupby(range(len(ordered)), key=lambda i: keys[order[i]][:5]):
        found = list(members)
        begin, end = begins[found[0]], begins[found[-1] + 1]
        parts = (t[begin:end].view(len(found), -1) for t in (prefixes, own_starts, own, positions))
        groups.append(group([ordered[i] for i in found], begin, end, *parts))
    for name, adapted in groupby(ordered, key=lambda segment: segment.adapter):
        end = at + sum(segment.width for segment in adapted)
        if name is not None:
            adapters.append((name, at, end))
        at = end
    offsets = [0] * len(segments)
    for place, i in enumerate(order):
        offsets[i] = begins[place]
    return Step(ids[None], positions[None], places, groups, adapters, offsets)


def on_device(values: Sequence[Any] | np.ndarray, device: torch.device) -> Tensor:
    """Numbers of the host on the device, which is not waited for."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else torch.tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def group(
    members: Sequence[Segment],
    begin: int,
    end: int,
    prefix: Tensor,
    own_start: Tensor,
    slots: Tensor,
    positions: Tensor,
) -> Group:
    """The group of segments alike, in order of their extents; the tensors are (B, W)."""
    size, width = members[0].size, members[0].width
    rows = [segment.start // size for segment in members]
    low, high = rows[0], rows[-1] + 1
    ends = [segment.end for segment in members]
    span = max(ends)
    distinct = len(set(rows)) == len(rows)
    dense = distinct and 2 * len(rows) >= high - low
    full = dense and len(rows) == high - low
    sequence = not members[0].leaves
    return Group(
        begin=begin,
        end=end,
        width=width,
        size=size,
        span=span,
        rows=slice(low, high) if dense else torch.tensor(rows, device=slots.device),
        places=torch.tensor(rows, device=slots.device) - low if dense and not full else None,
        count=high - low if dense else len(rows),
        causal=sequence and all(segment.prefix == 0 for segment in members),
        open=sequence and width == 1 and min(ends) == span,
        prefix=prefix[:, :1],
        own_start=own_start,
        slots=slots,
        positions=positions,
    )
