"""From ragged requests to one flat forward: all new tokens of a step in one sequence, without padding.

Each context brings *segments*: consecutive new tokens of its sequence, or the leaves of a branch. A token sees the
slots of its context before the segment and, in the segment, what it goes on with: for a sequence all before it, for
a leaf the tokens of that leaf, not its siblings. Leaves are written behind the sequence and stand at the position
after it, or after tokens of theirs that were computed before.

Segments are sorted so that tokens of one adapter stand together, and neighbours of equal width over extents of equal
size are one *group*, which attends in one call. On a CPU a group reads no more than stays in the cache, and its rows
are of similar length.

Non-goals: tensors of the model; this file computes only what the forward is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(slots=True)
class Segment:
    """New tokens of one context. Slots count from the beginning of its extent; `start`, `size` say where that is."""

    start: int
    size: int
    prefix: int  # slots before `first` that every token sees
    first: int  # slot of the first token
    tokens: Sequence[int]
    leaves: tuple[int, ...] = ()  # lengths of the leaves that `tokens` are made of; () for a sequence
    adapter: str | None = None
    earlier: tuple[tuple[int, ...], ...] = ()  # slots of the tokens with which each leaf begins, computed before

    @property
    def width(self) -> int:
        """New tokens."""
        return len(self.tokens)


@dataclass
class Group:
    """B segments of W tokens over extents of one size; they are tokens `begin` ... `end` of the forward.

    `rows` is a range where the extents lie side by side (a view, no copy), or row indices.
    """

    begin: int
    end: int
    width: int
    size: int
    span: int  # slots read
    rows: slice | Tensor
    causal: bool  # query t sees exactly the slots 0 ... t
    open: bool  # every query sees every slot of the span
    columns: Tensor  # (4, B, W): positions of the queries, their slots, the first own slots and the prefixes they see
    earlier: Tensor | None  # (4, M): a row, one of its queries, a slot that this sees besides, and its position
    known: dict[tuple[int | None, int], Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype, per_head: int) -> Tensor | None:
        """Additive mask (B, 1, per_head * W, span), for `per_head` query heads stacked behind each other.

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
        positions, own, own_starts, prefixes = self.columns[..., None]
        slots = torch.arange(self.span, device=own.device)
        before = slots < prefixes  # (B, W, span)
        inside = (slots >= own_starts) & (slots <= own)
        if window is not None:
            before &= slots > positions - window  # slots before the leaves are positions
            inside &= slots - own > -window
        if self.earlier is not None:
            row, query, slot, position = self.earlier
            inside[row, query, slot] = True if window is None else position > positions[row, query, 0] - window
        mask = torch.full(inside.shape, torch.finfo(dtype).min, dtype=dtype, device=own.device)
        mask.masked_fill_(before | inside, 0)
        return (mask if self.width == 1 or per_head == 1 else mask.repeat(1, per_head, 1))[:, None]


@dataclass(frozen=True)
class Step:
    """One flat forward of T tokens."""

    table: Tensor  # (7, T), see `columns`
    groups: list[Group]
    adapters: list[tuple[str, int, int]]  # (adapter, first token, behind the last)
    offsets: list[int]  # where each segment's tokens begin, in the order in which the segments were given

    @property
    def ids(self) -> Tensor:
        """(1, T)."""
        return self.table[:1]

    @property
    def positions(self) -> Tensor:
        """(1, T)."""
        return self.table[3:4]

    @property
    def slots(self) -> Tensor:
        """(T,), of the memory."""
        return self.table[1]


def lay_out(segments: Sequence[Segment], device: torch.device, most_slots: int | None = None) -> Step:
    """Arrange segments (each at least one token) as one forward.

    A group of several rows reads at most `most_slots`, if that is given; then rows stand in the order of their
    lengths, otherwise in that of their extents.
    """
    kinds = [(len(s.tokens), s.size, bool(s.leaves), s.prefix > 0) for s in segments]
    keys = [  # leaves behind what no adapter reads and before what one does, so that both branches are one group
        (s.adapter or "", bool(s.leaves) != bool(s.adapter), kind, s.first if most_slots else s.start)
        for s, kind in zip(segments, kinds, strict=True)
    ]
    order = sorted(range(len(segments)), key=keys.__getitem__)
    ordered = [segments[i] for i in order]
    begins = list(accumulate((len(segment.tokens) for segment in ordered), initial=0))
    table = on_device(columns(ordered, begins), device)  # one transfer
    groups, adapters, at = [], [], 0
    for kind, members in groupby(order, key=kinds.__getitem__):
        for found in pieces([segments[i] for i in members], most_slots):
            count = len(found) * kind[0]
            groups.append(group(found, at, table[2:, at : at + count].view(5, len(found), -1)))
            at += count
    for name in {segment.adapter: None for segment in ordered if segment.adapter is not None}:
        places = [place for place, segment in enumerate(ordered) if segment.adapter == name]
        adapters.append((name, begins[places[0]], begins[places[-1] + 1]))
    offsets = [0] * len(segments)
    for i, begin in zip(order, begins, strict=False):
        offsets[i] = begin
    return Step(table, groups, adapters, offsets)


def columns(segments: Sequence[Segment], begins: Sequence[int]) -> np.ndarray:
    """(7, T): of each token its id, its slot in the memory, the row of its extent among those of one size, and what
    `Group.columns` holds."""
    if begins[-1] == len(segments) and not any(segment.leaves for segment in segments):  # the common step
        single = [
            (s.tokens[0], s.start + s.first, s.start // s.size, s.first, s.first, s.prefix, s.prefix) for s in segments
        ]
        return np.array(single, np.int64).T.copy()
    numbers = np.array([(s.start, s.size, s.first, s.prefix, len(s.tokens)) for s in segments])
    start, size, first, prefix, _ = np.repeat(numbers, numbers[:, 4], axis=0).T
    table = np.empty((7, begins[-1]), np.int64)
    ids, slots, rows, positions, own, own_starts, prefixes = table
    ids[:] = np.fromiter(chain.from_iterable(segment.tokens for segment in segments), np.int64, begins[-1])
    own[:] = first + np.arange(begins[-1]) - np.repeat(begins[:-1], numbers[:, 4])
    slots[:], rows[:], positions[:], own_starts[:], prefixes[:] = start + own, start // size, own, prefix, prefix
    for segment, begin in zip(segments, begins, strict=False):
        if segment.leaves:
            lengths = np.array(segment.leaves)
            behind = np.repeat(lengths.cumsum() - lengths, lengths)  # where the leaf of each token begins
            here = slice(begin, begin + segment.width)
            own_starts[here] = segment.first + behind
            before = np.repeat([len(slots) for slots in segment.earlier] or [0] * len(lengths), lengths)
            positions[here] = segment.prefix + before + own[here] - own_starts[here]
    return table


def on_device(values: Sequence[Any] | np.ndarray, device: torch.device) -> Tensor:
    """Numbers of the host on the device, which is not waited for."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else torch.tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def pieces(members: Sequence[Segment], most_slots: int | None) -> list[list[Segment]]:
    """Segments of one width, cut so that each piece reads at most `most_slots`, or is a single row."""
    found: list[list[Segment]] = []
    span = 0
    for segment in members:
        end = segment.first + len(segment.tokens)
        span = max(span, end)
        if not found or (most_slots and (len(found[-1]) + 1) * span > most_slots):
            found.append([])
            span = end
        found[-1].append(segment)
    return found


def group(members: Sequence[Segment], begin: int, table: Tensor) -> Group:
    """The group of segments alike; `table` (5, B, W) begins with the rows of their extents."""
    size, width = members[0].size, members[0].width
    rows = [segment.start // size for segment in members]
    together = range(rows[0], rows[0] + len(rows))
    ends = [segment.first + width for segment in members]
    span = max(ends)
    sequence = not members[0].leaves
    return Group(
        begin=begin,
        end=begin + width * len(members),
        width=width,
        size=size,
        span=span,
        rows=slice(together.start, together.stop) if rows == list(together) else table[0, :, 0],
        causal=sequence and members[0].prefix == 0,
        open=sequence and width == 1 and min(ends) == span,
        columns=table[1:],
        earlier=on_device(earlier, table.device).T if (earlier := seen_before(members)) else None,
    )


def seen_before(members: Sequence[Segment]) -> list[tuple[int, int, int, int]]:
    """`Group.earlier`, a line each: what the leaves of these segments see of earlier branches."""
    return [
        (row, token, slot, segment.prefix + place)
        for row, segment in enumerate(members)
        if segment.earlier
        for slots, length, end in zip(segment.earlier, segment.leaves, accumulate(segment.leaves), strict=False)
        for token in range(end - length, end)
        for place, slot in enumerate(slots)
    ]
