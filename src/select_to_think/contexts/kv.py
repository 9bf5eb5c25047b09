"""The key-value memory of one model: a fixed number of slots, allocated once, written at explicit places.

A context owns an extent of slots (`memory.py`). Ragged rows, rollback and trees are all "where do I write, what may I
see": a forward writes the states of its tokens at the slots it is told, and attention sees what the groups of
`layout.py` say. Rolling back is writing over old slots; going on with a leaf is moving its slot.

Non-goals: knowing sequences or tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from select_to_think.contexts.layout import on_device
from select_to_think.contexts.memory import Extents

FREE_SHARE = 0.3  # of the free memory, where the user names no budget
MOST_ROWS = 256
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer stores of a token."""

    kv_heads: int
    key_size: int
    value_size: int

    @property
    def numbers(self) -> int:
        """Numbers a token."""
        return self.kv_heads * (self.key_size + self.value_size)


class KVMemory:
    """Keys and values of every layer, (slots, kv_heads, head size) each.

    Zeros at first: what is not visible has weight zero, which only works for numbers. Layers of one shape stand in one
    tensor, so that moving a slot is one copy.
    """

    def __init__(self, shapes: Sequence[LayerShape], slots: int, dtype: torch.dtype, device: torch.device) -> None:
        """Room for `slots` tokens; on CPU, memory is taken as it is first written."""
        places: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (heads, size) -> [(layer, 0 keys or 1 values)]
        for layer, shape in enumerate(shapes):
            places.setdefault((shape.kv_heads, shape.key_size), []).append((layer, 0))
            places.setdefault((shape.kv_heads, shape.value_size), []).append((layer, 1))
        self.slots = slots
        self.stacks: list[Tensor] = []  # each (tensors, slots, heads, size)
        self.layers: list[list[Tensor]] = [[torch.empty(0)] * 2 for _ in shapes]
        for (heads, size), owners in places.items():
            stack = zeros((len(owners), slots, heads, size), dtype, device)
            self.stacks.append(stack)
            for place, (layer, part) in enumerate(owners):
                self.layers[layer][part] = stack[place]

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store (heads, T, size) states of T tokens at `slots` (T,)."""
        for store, states in zip(self.layers[layer], (keys, values), strict=True):
            store.index_copy_(0, slots, states.transpose(0, 1))

    def read(self, layer: int, part: int, size: int, span: int, rows: slice | Tensor) -> Tensor:
        """The first `span` slots of extents of one size, (rows, span, heads, head size); extent r begins at r * size.

        A slice of rows is a view; others are copied as whole rows of numbers, which is several times faster than
        indexing their slots.
        """
        store = self.layers[layer][part]
        count, slot = self.slots // size, store.shape[1] * store.shape[2]
        spans = store[: count * size].view(count, size * slot)[:, : span * slot]
        found = spans[rows] if isinstance(rows, slice) else spans.index_select(0, rows)
        return found.view(-1, span, *store.shape[1:])

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy `count` slots, in every layer."""
        for stack in self.stacks:
            stack[:, target : target + count] = stack[:, source : source + count].clone()

    def move(self, sources: Sequence[int], target: int) -> None:
        """Copy slots, in rising order, in every layer, to those from `target` on."""
        if sources[-1] - sources[0] == len(sources) - 1:
            return self.copy(sources[0], target, len(sources))
        found = on_device(sources, self.stacks[0].device)
        for stack in self.stacks:
            stack[:, target : target + len(sources)] = stack[:, found]

    def touch(self, count: int) -> None:
        """Take memory for the first `count` slots now; what they hold stays."""
        for stack in self.stacks:
            stack[:, :count] += 0

    def clear(self, start: int, count: int) -> None:
        """Zeros again, after a row that wrote something that is not a number."""
        for stack in self.stacks:
            stack[:, start : start + count] = 0


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on CPU such that the operating system gives memory only where something is written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    numbers = np.zeros(shape, np.float32 if dtype == torch.float32 else np.int16 if dtype.itemsize == 2 else np.float64)
    return torch.from_numpy(numbers).view(dtype)


def slots_in(
    budget_gib: float | None, shapes: Sequence[LayerShape], dtype: torch.dtype, device: torch.device, longest: int
) -> int:
    """Slots of a memory of `budget_gib` (default: a share of what is free), at most `MOST_ROWS` longest sequences."""
    slot_bytes = sum(shape.numbers for shape in shapes) * dtype.itemsize
    if budget_gib is None:
        budget_gib = free_bytes(device) * FREE_SHARE / GIB
    return min(int(budget_gib * GIB / slot_bytes), MOST_ROWS * Extents.size_for(longest))


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device; on a CPU, to this process."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(min(psutil.virtual_memory().available, left_in_group()))


def left_in_group(own: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that the control groups (version 2) of this process still allow: of a container, a service; inf without."""
    with suppress(OSError):
        name = next((line[3:] for line in own.read_text().splitlines() if line.startswith("0::")), "/")
        place = groups / name.strip("/")
        return min(map(left_in, [place, *place.parents]))
    return math.inf


def left_in(group: Path) -> float:
    """What the limit of one control group leaves; a cache of files gives way."""
    try:
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return math.inf
    return math.inf if limit == "max" else int(limit) - int(used) + int(counts.get("inactive_file", 0))
