"""The key-value buffer: one fixed-size tensor per layer, written at explicit (row, slot) positions.

Ragged batches, rollback and trees are all "where do I write, what may I see": a layer stores new keys at the slots it
is told and returns a view of the rows of this forward; which slots a query may see is the mask's business
(`contexts/layout.py`). Rolling back is writing over old slots.

Non-goals: knowing sequences or tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of the buffer one forward writes and reads."""

    rows: Tensor | slice  # (B,) row indices, or a contiguous range of rows (a view, no copy)
    write_rows: Tensor  # (B, 1)
    write_slots: Tensor  # (B, T)
    span: int  # slots read: 0 .. span - 1
    column: int | None = None  # all rows write this one slot (plain decoding in step)


class KVLayer(CacheLayerMixin):
    """Keys and values of one layer, each (rows, kv_heads, slots, head_dim)."""

    is_sliding = False
    is_compileable = False

    def __init__(self, buffer: KVBuffer) -> None:
        """Take rows, slots and the current window from `buffer`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.buffer = buffer

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate zeros in the model's own type, on the layer's own device."""
        rows, slots = self.buffer.rows, self.buffer.slots
        self.keys = key_states.new_zeros(rows, key_states.shape[1], slots, key_states.shape[-1])
        self.values = value_states.new_zeros(rows, value_states.shape[1], slots, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write (B, heads, T, D) states at the window's slots; return (B, heads, span, D) of its rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self.buffer.window
        assert window is not None and self.keys is not None and self.values is not None
        if window.column is not None:
            self.keys[window.rows, :, window.column] = key_states[:, :, 0]
            self.values[window.rows, :, window.column] = value_states[:, :, 0]
        else:
            self.keys[window.write_rows, :, window.write_slots] = key_states.transpose(1, 2)
            self.values[window.write_rows, :, window.write_slots] = value_states.transpose(1, 2)
        return self.keys[window.rows, :, : window.span], self.values[window.rows, :, : window.span]

    def resize(self, rows: int, slots: int) -> None:
        """Grow, keeping the content."""
        if not self.is_initialized:
            return
        assert self.keys is not None and self.values is not None
        old_rows, heads, old_slots, _ = self.keys.shape
        keys = self.keys.new_zeros(rows, heads, slots, self.keys.shape[-1])
        values = self.values.new_zeros(rows, heads, slots, self.values.shape[-1])
        keys[:old_rows, :, :old_slots] = self.keys
        values[:old_rows, :, :old_slots] = self.values
        self.keys, self.values = keys, values

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` slots of a row."""
        if self.is_initialized:
            assert self.keys is not None and self.values is not None
            self.keys[target, :, :length] = self.keys[source, :, :length]
            self.values[target, :, :length] = self.values[source, :, :length]

    def get_seq_length(self) -> int:
        """Slots read by the current forward; masks and positions are explicit, so nothing else depends on it."""
        return 0 if self.buffer.window is None else self.buffer.window.span

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(kv length, kv offset), for models that ask although the mask is given."""
        return self.get_seq_length(), 0

    def get_max_cache_shape(self) -> int:
        """Slots per row."""
        return self.buffer.slots

    def get_max_length(self) -> int:
        """Slots per row."""
        return self.buffer.slots

    def reset(self) -> None:
        """Forget nothing: slots are overwritten when they are used again."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows never move; beams are contexts."""
        raise NotImplementedError("contexts are forked, not reordered")


class KVBuffer(Cache):
    """One `KVLayer` per model layer. The last slot of every row is scratch: padding is written there."""

    def __init__(self, num_layers: int, rows: int, slots: int) -> None:
        """Room for `rows` sequences of `slots` - 1 tokens; memory is taken at the first forward."""
        self.rows, self.slots = rows, slots
        self.window: Window | None = None
        self.kv_layers = [KVLayer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self.kv_layers))

    def reserve(self, rows: int, slots: int) -> None:
        """Grow, by doubling, to at least `rows` x `slots`."""
        if rows <= self.rows and slots <= self.slots:
            return
        self.rows = max(self.rows, 2 * self.rows if rows > self.rows else 0, rows)
        self.slots = max(self.slots, 2 * self.slots if slots > self.slots else 0, slots)
        for layer in self.kv_layers:
            layer.resize(self.rows, self.slots)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` slots of row `source` to row `target` in every layer."""
        for layer in self.kv_layers:
            layer.copy_row(source, target, length)
