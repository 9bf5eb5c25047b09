"""The public shape of a trigger, and its plain form."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Protocol

from select_to_think.structures import Observation


@dataclass(frozen=True, slots=True)
class StepView:
    """What a trigger may look at before a step is decided. Line `line` of each observation is this step's."""

    slm: Observation
    llm: Observation | None = None  # asked only when the trigger needs it; `asked_logprobs` are of the SLM's top ids
    line: int = 0


class Trigger(Protocol):
    """Decides whether a step is a divergence point: fired when the statistic exceeds `threshold`.

    Every statistic is oriented so that higher means more divergent.
    """

    name: str
    threshold: float
    needs_llm: bool  # the statistic looks at the LLM's distribution
    support: int  # how many of the SLM's top tokens it compares
    entropy: bool  # whether the SLM's entropy is observed
    hidden: bool  # whether the SLM's last hidden state is observed

    def statistic(self, view: StepView, random: Random) -> float:
        """The step's statistic; `random` is the row's own stream."""
        ...
