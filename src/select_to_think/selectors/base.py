"""The public shape of a selector: given a triggered step, pick one of the SLM's candidates."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

from select_to_think.structures import Branch, Chooser, Observation, Observe, Requests


@dataclass(frozen=True, slots=True)
class Triggered:
    """A triggered step. If the trigger has asked the LLM already, `llm` holds that answer in its line `line`; its
    `asked_logprobs` begin with those of the candidates."""

    candidates: tuple[int, ...]  # the SLM's top-K, best first
    logprobs: tuple[float, ...]  # log p_SLM of the candidates, nats
    llm: Observation | None = None
    line: int = 0
    ahead: Observe | None = None  # what the next step asks of the SLM, if there is one

    @property
    def leaves(self) -> tuple[tuple[int], ...]:
        """The candidates as continuations."""
        return tuple((candidate,) for candidate in self.candidates)

    def look_ahead(self) -> tuple[Branch, ...]:
        """What shows how the SLM goes on behind each candidate, if there is a next step."""
        return () if self.ahead is None else (Branch("slm", self.leaves, self.ahead, optional=True),)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a selector decided, and why."""

    token: int
    scores: tuple[float, ...]  # of the candidates; higher is better
    chooser: Chooser
    llm_top_token: int | None = None
    ahead: Observation | None = None  # (K lines) what the SLM sees behind each candidate; it may adopt one
    llm_failed: bool = False  # the LLM was not reached


class Selector(Protocol):
    """Picks the token of a triggered step."""

    @property
    def follows(self) -> tuple[str, ...]:
        """The contexts, beside the SLM's, that must be in step with the sequence."""
        ...

    @property
    def writes(self) -> bool:
        """Whether the token is the LLM's own, not one of the candidates."""
        ...

    def choose(self, step: Triggered) -> Generator[Requests, Any, Choice]:
        """Ask what is needed and decide."""
        ...


def shown(answers: list[Observation]) -> Observation | None:
    """What a look ahead brought, if it was made: the last of the answers to a tuple of requests."""
    return answers[-1] if len(answers) > 1 and answers[-1].top_ids is not None else None
