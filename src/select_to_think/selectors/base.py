"""The public shape of a selector: given a triggered step, pick one of the SLM's candidates."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from select_to_think.structures import Chooser, Observation, Request


@dataclass(frozen=True, slots=True)
class Triggered:
    """A triggered step. If the trigger has asked the LLM already, `llm` holds that answer in its line `line`; its
    `asked_logprobs` begin with those of the candidates."""

    candidates: tuple[int, ...]  # the SLM's top-K, best first
    logprobs: tuple[float, ...]  # log p_SLM of the candidates, nats
    llm: Observation | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What a selector decided, and why."""

    token: int
    scores: tuple[float, ...]  # of the candidates; higher is better
    chooser: Chooser
    llm_top_token: int | None = None


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

    def choose(self, step: Triggered) -> Generator[Request, Observation, Choice]:
        """Ask what is needed and decide."""
        ...
