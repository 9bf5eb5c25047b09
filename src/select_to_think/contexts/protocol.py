"""What a context is, and what a backend must do: the seam between the runtime and any model.

A *context* is one model's view of one sequence. A *backend* owns the contexts of one set of weights and answers
requests about many of them at once. The runtime knows nothing else about models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Protocol

from select_to_think.structures import Branch, Extend, Observation


@dataclass(slots=True)
class Account:
    """What one row spent on one set of weights, whatever contexts it has there."""

    tokens_processed: int = 0
    tokens_cached: int = 0  # known from another sequence, copied
    forwards: int = 0
    last_forward: int = 0  # number of the latest one, so that two contexts in one forward count it once


@dataclass(slots=True, eq=False)
class Context:
    """One sequence in one model: the first `stored` of its tokens are in the cache, the others wait for a forward."""

    start: int  # first slot of its extent; in llama.cpp the number of its sequence
    size: int  # slots of its extent
    adapter: str | None = None
    tokens: list[int] = field(default_factory=list)
    stored: int = 0
    account: Account = field(default_factory=Account)
    leaves: Sequence[Sequence[int]] = ()  # of the last branch, one of which may be adopted
    grown: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)  # leaves -> where their tokens are kept

    def __len__(self) -> int:
        """Tokens of the sequence so far."""
        return len(self.tokens)

    @property
    def pending(self) -> int:
        """Tokens that wait for the next forward."""
        return len(self.tokens) - self.stored

    def append(self, tokens: Sequence[int]) -> None:
        """Queue tokens; they cost nothing until the next request."""
        self.tokens.extend(tokens)
        if self.leaves or self.grown:
            self.forget_leaves()

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        if not 0 <= length <= len(self):
            raise ValueError(f"cannot truncate a context of {len(self)} tokens to {length}")
        del self.tokens[length:]
        self.stored = min(self.stored, length)
        self.forget_leaves()

    def end_of_leaves(self) -> int:
        """The first slot behind the sequence, and behind the leaves that are kept."""
        return max((slots[-1] + 1 for slots in self.grown.values()), default=len(self))

    def earlier(self, branch: Branch, adapter: str | None) -> list[tuple[int, ...]]:
        """The slots of the tokens with which each leaf begins, as far as branches under no other adapter computed them;
        the last token is always computed again."""
        if adapter is not None or not self.grown:
            return [()] * len(branch.continuations)
        longest = max(map(len, self.grown))
        found = []
        for leaf in map(tuple, branch.continuations):
            beginnings = (leaf[:n] for n in range(min(len(leaf) - 1, longest), 0, -1))
            found.append(next((self.grown[known] for known in beginnings if known in self.grown), ()))
        return found

    def forget_leaves(self) -> None:
        """Let no leaf be adopted or gone on with."""
        self.leaves = ()
        self.grown.clear()


@dataclass(slots=True, eq=False)
class Ask:
    """A request about a context, and its answer once there is one: what was observed, or why it was not."""

    context: Context
    request: Extend | Branch
    adapter: str | None = None  # acts on the leaves of a branch in place of the context's own
    arrival: Event | None = None  # is set when `step` can return an answer that was computed elsewhere
    row: Any = None  # who waits for the answer, ...
    since: int = 0  # ... and since which step
    answer: Observation | Exception | None = None
    first: int = 0  # of an `Extend` in process: the first token of the context that is observed, ...
    end: int = 0  # ... and the length of the context with its tokens
    pieces: tuple[Observation, ...] = ()  # what was observed so far, where its tokens come in pieces


class Backend(Protocol):
    """One set of weights, many contexts. Requests are submitted; `step` answers some of them."""

    cost: float  # of a forward, relative to the other backends
    forwards: int  # of the whole model so far
    remote: bool  # what is submitted is computed elsewhere; `step` collects what has been answered

    @property
    def waiting(self) -> Sequence[Ask]:
        """Submitted and not answered."""
        ...

    def open(self, tokens: int, adapter: str | None = None) -> Context | None:
        """An empty context with room for `tokens` tokens, or None while there is no memory for it."""
        ...

    def capacity(self, tokens: int) -> int:
        """How many contexts of `tokens` tokens there would be memory for if nothing else was there."""
        ...

    def copy(self, source: Context, target: Context) -> None:
        """Give `target` the tokens of `source`: its cache is copied, not computed again."""
        ...

    def close(self, context: Context) -> None:
        """Give the context's memory back; what was asked about it is dropped."""
        ...

    def adopt(self, context: Context, leaf: int) -> None:
        """Let the context go on with a leaf of its last branch. No forward."""
        ...

    def submit(self, ask: Ask) -> None:
        """Queue a request."""
        ...

    def step(self) -> list[Ask]:
        """Make one forward for what waits, or, of a remote backend, none; return the requests that are answered now.

        A request that could not be answered has an exception for an answer (`ModelUnavailable` where the model was not
        reached); its context stays as it was before the request.
        """
        ...
