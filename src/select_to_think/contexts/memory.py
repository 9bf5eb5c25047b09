"""Which slots of the key-value memory belong to which context: extents of a power of two, aligned to their size.

Extents of one size are rows of one view of the memory, so that many contexts attend in one call, without a copy where
they lie side by side. Freed halves grow together again; the lowest address is taken first, which keeps the rows of a
batch together.

Non-goals: tensors.
"""

from __future__ import annotations

from bisect import insort

SMALLEST_EXTENT = 64  # slots


class Extents:
    """A buddy allocator over `slots` slots."""

    def __init__(self, slots: int) -> None:
        """Everything is free; what is left behind the last whole block of the smallest size is not used."""
        self.slots = slots - slots % SMALLEST_EXTENT
        self.free: dict[int, list[int]] = {}  # size -> starts, in order
        start, size = 0, 1 << max(slots, 1).bit_length()
        while (size := size // 2) >= SMALLEST_EXTENT:
            if start + size <= slots:
                self.free[size] = [start]
                start += size
        self.largest = max(self.free, default=0)

    @property
    def available(self) -> int:
        """Slots that belong to nobody; may be read while another thread takes and gives."""
        return sum(size * len(starts) for size, starts in list(self.free.items()))

    @staticmethod
    def size_for(tokens: int) -> int:
        """The size of the extent that holds `tokens` tokens."""
        return max(SMALLEST_EXTENT, 1 << max(tokens - 1, 0).bit_length())

    def take(self, tokens: int) -> tuple[int, int] | None:
        """(start, size) of an extent for at least `tokens` tokens, or None while there is no room."""
        size = self.size_for(tokens)
        fitting = [(starts[0], other) for other, starts in self.free.items() if other >= size and starts]
        if not fitting:
            return None
        start, other = min(fitting, key=lambda entry: (entry[1], entry[0]))
        self.free[other].pop(0)
        while other > size:
            other //= 2
            insort(self.free.setdefault(other, []), start + other)
        return start, size

    def capacity(self, tokens: int) -> int:
        """How many extents for `tokens` tokens there are if nothing is taken."""
        return self.slots // self.size_for(tokens)

    def give(self, start: int, size: int) -> None:
        """Take an extent back."""
        while (buddy := start ^ size) in self.free.get(size, ()):
            self.free[size].remove(buddy)
            start, size = min(start, buddy), 2 * size
        insort(self.free.setdefault(size, []), start)
