"""What a context is, and what a backend must do: the seam between the engine and any model runtime.

A *context* is one model's view of one sequence. A *backend* owns the contexts of one model and answers requests about
many of them at once. The engine knows nothing else about models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from select_to_think.structures import Branch, Extend, ModelUnavailable, Observation


@dataclass(slots=True, eq=False)
class Context:
    """One sequence in one model: `stored` tokens are in the cache, `pending` ones wait for the next forward."""

    slot: int
    stored: int = 0
    pending: list[int] = field(default_factory=list)
    tokens_processed: int = 0
    forwards: int = 0

    def __len__(self) -> int:
        """Tokens of the sequence so far."""
        return self.stored + len(self.pending)

    def append(self, tokens: Sequence[int]) -> None:
        """Queue tokens; they cost nothing until the next request."""
        self.pending.extend(tokens)

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        if not 0 <= length <= len(self):
            raise ValueError(f"cannot truncate a context of {len(self)} tokens to {length}")
        del self.pending[max(0, length - self.stored) :]
        self.stored = min(self.stored, length)


class Backend(Protocol):
    """One model, many contexts."""

    def open(self, parent: Context | None = None) -> Context:
        """A new context: empty, or with the tokens of `parent` (its cache is copied, not computed again)."""
        ...

    def close(self, context: Context) -> None:
        """Give the context's memory back."""
        ...

    def run(self, asks: Sequence[tuple[Context, Extend | Branch]]) -> Sequence[Observation | ModelUnavailable]:
        """Answer one blocking request per context, batched; pending tokens of each context go along.

        A request that could not be answered gets a `ModelUnavailable`, which is raised in its policy; its context stays
        as it was.
        """
        ...
