"""What a domain hands over: a question and every way of reading it.

A puzzle is solved by one deterministic chain of thought. Its *spots* are the places where a careless writer may misread
the question; solving with some spots misread gives the chain that such a writer produces, consistent with the mistake.

Non-goals: deciding who misreads what (`writers`), formats and tokens (`documents`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

CAREFUL: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Solution:
    """A chain of thought that ends in `The answer is X.`, and that X."""

    text: str
    answer: str


class Puzzle(Protocol):
    """One problem of one domain."""

    @property
    def domain(self) -> str: ...

    @property
    def key(self) -> str:
        """Canonical text of what is asked, free of wording: equal keys are the same problem."""

    @property
    def question(self) -> str: ...

    @property
    def spots(self) -> tuple[str, ...]:
        """Kinds of the places that can be misread (keys of `writers.MISREADING_SHARES`)."""

    def solve(self, misread: frozenset[int] = CAREFUL) -> Solution:
        """The chain of a writer who misreads the spots with these indices."""


def conclude(sentences: list[str], answer: str) -> Solution:
    """Join the chain's sentences and state the answer."""
    return Solution(" ".join([*sentences, f"The answer is {answer}."]), answer)
