"""What llama.cpp is told: who has which sequence of its key-value memory, and the tokens of a decode call.

Non-goals: requests and answers (`llama_cpp_backend.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from select_to_think.contexts.protocol import Context
from select_to_think.models.gguf import library

SEQUENCES = 192  # of at most 256; llama.cpp keeps an output row for each
CONTEXTS = 64  # of them; the others are leaves


class Sequences:
    """The sequences of one key-value memory: who has which number, and how many cells each may fill."""

    def __init__(self, memory: Any, cells: int) -> None:
        """Deal out `cells` cells."""
        self.memory, self.cells, self.left = memory, cells, cells
        self.free, self.contexts = list(range(SEQUENCES))[::-1], 0
        self.filled = [0] * SEQUENCES  # tokens of each that have cells

    def capacity(self, tokens: int) -> int:
        """How many contexts of `tokens` tokens there is room for if nothing else is there."""
        return min(self.cells // max(tokens, 1), CONTEXTS)

    def take(self, tokens: int) -> tuple[int, int] | None:
        """(number, cells) of a sequence for `tokens` tokens, or None while there is none."""
        if self.contexts == CONTEXTS or not self.free or tokens > self.left:
            return None
        self.contexts += 1
        self.left -= tokens
        return self.free.pop(), tokens

    def give(self, start: int, size: int) -> None:
        """Take a sequence and its cells back."""
        self.contexts -= 1
        self.left += size
        self.release([start])

    def release(self, numbers: Sequence[int]) -> None:
        """Forget sequences."""
        for number in numbers:
            self.cut(number, 0)
            self.free.append(number)

    def cut(self, number: int, length: int) -> None:
        """Forget what a sequence holds behind its first `length` tokens."""
        if self.filled[number] > length:
            library().llama_memory_seq_rm(self.memory, number, length, -1)
            self.filled[number] = length

    def copy(self, source: int, target: int, count: int) -> None:
        """Let `target` share the first `count` cells of `source`."""
        self.cut(target, 0)
        library().llama_memory_seq_cp(self.memory, source, target, 0, count)
        self.filled[target] = count

    def clear(self, start: int, count: int) -> None:
        """Forget a sequence; what is in a cell that nobody has is never read."""
        self.cut(start, 0)


@dataclass
class Call:
    """What llama.cpp decodes at once: tokens with their places, sequences, and whether they are looked at."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sequences: list[tuple[int, ...]] = field(default_factory=list)
    looked_at: list[bool] = field(default_factory=list)
    owners: list[Context] = field(default_factory=list)
    hidden: bool = False  # states are asked for, and then those of all tokens come

    def piece(self, start: int, end: int) -> tuple[Any, list[np.ndarray]]:
        """llama.cpp's form of some of the tokens, and the arrays that it points into."""
        sequences = self.sequences[start:end]
        counts = np.array([len(each) for each in sequences], np.int32)
        numbers = np.array([number for each in sequences for number in each], np.int32)
        places = numbers.ctypes.data + numbers.itemsize * (np.cumsum(counts) - counts).astype(np.uint64)
        tokens, positions = (np.array(each[start:end], np.int32) for each in (self.tokens, self.positions))
        wanted = np.array(self.looked_at[start:end], np.int8)
        arrays: dict[str, np.ndarray] = {
            "token": tokens,
            "pos": positions,
            "n_seq_id": counts,
            "seq_id": places,
            "logits": wanted,
        }
        kind = library().llama_batch
        types = dict(kind._fields_)
        pointers = {name: ctypes.cast(array.ctypes.data, types[name]) for name, array in arrays.items()}
        return kind(n_tokens=end - start, **pointers), [numbers, *arrays.values()]
