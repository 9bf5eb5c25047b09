"""What the runtime runs, and what it reports: runs go in, events come out, rows live in between.

Non-goals: driving them (`runtime.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from select_to_think.contexts.protocol import Account, Ask, Context
from select_to_think.structures import Counts, Generation, PolicyRun, Role, StepRecord


@dataclass(frozen=True, slots=True)
class Run:
    """A policy to be run. `tokens` is the length of its longest sequence, `copies` how many children may fork. Its
    steps are `told` as they become final, or only its result is. `bias`, pairs of a token id and nats, is added to the
    logits of the SLM and the LLM: proposals, draws, scores and triggers are what they are under it."""

    policy: PolicyRun
    roles: Mapping[str, Role]
    tokens: int
    copies: int = 0
    told: bool = True
    bias: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Committed:
    """Steps of a run that are final."""

    key: Hashable
    steps: Sequence[StepRecord]


@dataclass(frozen=True, slots=True)
class Finished:
    """A run's result."""

    key: Hashable
    result: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a run has none."""

    key: Hashable
    error: Exception


Event = Committed | Finished | Failed


@dataclass(slots=True, eq=False)
class Row:
    """One running policy: its contexts, the requests it waits for, and its place in a family."""

    key: Hashable
    run: Run
    parent: Row | None = None
    contexts: dict[str, Context] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)  # by backend
    asks: list[Ask] = field(default_factory=list)
    several: bool = False  # they came as a tuple
    joining: bool = False
    submitted: deque[Ask] = field(default_factory=deque)  # under way, or answered and not collected
    collecting: bool = False
    children: list[Row] = field(default_factory=list)
    spares: list[dict[str, Context]] = field(default_factory=list)  # for children
    finished_children: deque[Generation] = field(default_factory=deque)
    spent: Counts = field(default_factory=Counts)  # by children
    ended: bool = False

    @property
    def root(self) -> Row:
        """The row that the family began with."""
        return self if self.parent is None else self.parent.root

    def cost(self) -> Counts:
        """Tokens and forwards of the row's contexts and of its children that left."""
        counts = Counts()
        counts.add(self.spent)
        for backend, account in self.accounts.items():
            if backend == "llm":
                counts.llm_tokens_processed += account.tokens_processed
                counts.llm_tokens_cached += account.tokens_cached
                counts.llm_forwards += account.forwards
            else:
                counts.slm_tokens_processed += account.tokens_processed
                counts.slm_tokens_cached += account.tokens_cached
                counts.slm_forwards += account.forwards
        return counts
