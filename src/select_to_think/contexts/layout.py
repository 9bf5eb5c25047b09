"""From ragged requests to one rectangular forward: ids, position ids, write slots and masks.

Each row appends its new tokens at slots stored, stored + 1, ... (position = slot). Leaves of a branch follow in scratch
slots behind them: they share the position after the sequence, see the sequence and themselves, not their siblings, and
are overwritten later. Rows are padded on the left, so that the last column is every row's newest token.

Non-goals: tensors of the model; this file computes only what the forward is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from select_to_think.contexts.kv import Window
from select_to_think.contexts.masks import additive


@dataclass(frozen=True, slots=True)
class RowPlan:
    """One row's part of a forward: tokens to append, and leaves to score behind them."""

    slot: int
    stored: int
    tokens: Sequence[int]
    leaves: Sequence[Sequence[int]] = ()

    @property
    def width(self) -> int:
        """New tokens of this row."""
        return len(self.tokens) + sum(map(len, self.leaves))

    @property
    def end(self) -> int:
        """First slot that this row does not touch."""
        return self.stored + self.width


@dataclass(frozen=True, slots=True)
class Layout:
    """One forward. B rows, T new tokens a row (left-padded), S = `window.span` visible slots."""

    ids: Tensor  # (B, T)
    positions: Tensor  # (B, T)
    window: Window
    lines: np.ndarray  # (number of plans,) the line of the batch that belongs to each plan
    limit: np.ndarray  # (B, T) last slot of the sequence that the query sees
    own_start: np.ndarray  # (B, T) first slot of the query's own leaf (beyond every slot for ordinary tokens)
    own_end: np.ndarray  # (B, T) the query's own slot
    maskless: bool  # every query sees every slot of the span
    causal: bool  # query t sees the slots 0 .. t: prompts of one length in empty contexts

    def mask(self, dtype: torch.dtype, device: torch.device, sliding_window: int | None = None) -> Tensor:
        """Additive float mask (B, 1, T, S): 0 where visible, the type's minimum elsewhere.

        `sliding_window` counts positions: a query at position p sees p - window + 1 .. p.
        """
        slots = torch.arange(self.window.span, device=device)  # (S,)
        limit, own_start, own_end = (
            torch.from_numpy(a).to(device)[..., None] for a in (self.limit, self.own_start, self.own_end)
        )
        shared = slots <= limit  # (B, T, S)
        own = (slots >= own_start) & (slots <= own_end)
        if sliding_window is not None:
            shared &= slots > self.positions[..., None] - sliding_window
            own &= slots > own_end - sliding_window
        return additive(shared | own, dtype)


def choose_rows(slots: Sequence[int]) -> list[int]:
    """The buffer rows of a forward: the covering range if at least half of it takes part, else just the slots.

    A range is a view of the buffer; picking scattered rows copies them. Idle rows of the range compute padding.
    """
    low, high = min(slots), max(slots) + 1
    return list(range(low, high)) if 2 * len(slots) >= high - low else sorted(slots)


def lay_out(plans: Sequence[RowPlan], scratch: int, device: torch.device) -> Layout:
    """Arrange `plans` (distinct slots, widths >= 1) as one forward; padding is written to slot `scratch`."""
    rows = choose_rows([plan.slot for plan in plans])
    line_of = {slot: line for line, slot in enumerate(rows)}
    batch, width = len(rows), max(plan.width for plan in plans)
    ids = np.zeros((batch, width), np.int64)
    positions = np.zeros((batch, width), np.int64)
    slots = np.full((batch, width), scratch, np.int64)
    limit = np.zeros((batch, width), np.int64)
    own_start = np.full((batch, width), scratch + 1, np.int64)
    for plan in plans:
        line, column, end = line_of[plan.slot], width - plan.width, plan.stored + len(plan.tokens)
        new = slice(column, column + len(plan.tokens))
        ids[line, new] = plan.tokens
        positions[line, new] = slots[line, new] = limit[line, new] = np.arange(plan.stored, end)
        column, slot = new.stop, end
        for leaf in plan.leaves:
            part = slice(column, column + len(leaf))
            ids[line, part] = leaf
            positions[line, part] = np.arange(end, end + len(leaf))
            slots[line, part] = np.arange(slot, slot + len(leaf))
            limit[line, part], own_start[line, part] = end - 1, slot
            column, slot = part.stop, slot + len(leaf)
    span = max(plan.end for plan in plans)
    in_step = width == 1 and len(plans) == batch and all(plan.end == span and not plan.leaves for plan in plans)
    plain = len(plans) == batch and all(plan.stored == 0 and plan.width == width and not plan.leaves for plan in plans)
    contiguous = rows[-1] - rows[0] + 1 == batch
    window = Window(
        rows=slice(rows[0], rows[-1] + 1) if contiguous else torch.tensor(rows, device=device),
        write_rows=torch.tensor(rows, device=device)[:, None],
        write_slots=torch.from_numpy(slots).to(device),
        span=span,
        column=span - 1 if in_step else None,
    )
    return Layout(
        ids=torch.from_numpy(ids).to(device),
        positions=torch.from_numpy(positions).to(device),
        window=window,
        lines=np.array([line_of[plan.slot] for plan in plans]),
        limit=limit,
        own_start=own_start,
        own_end=slots,
        maskless=in_step,
        causal=plain,
    )
