"""The public shape of a trigger, and its plain form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from select_to_think.structures import Observation


@dataclass(frozen=True, slots=True)
class StepView:
    """What a trigger may look at before a step is decided."""

    slm: Observation  # of this step alone
    llm: Observation | None = None  # only for triggers that need it; `asked_logprobs` are of the SLM's top ids
    line: int = 0  # this step's line of `llm`


@dataclass(frozen=True)
class Trigger(ABC):
    """Decides whether a step is a divergence point: it fires when the statistic exceeds `threshold`.

    Every statistic is oriented so that higher means more divergent.
    """

    threshold: float
    needs_llm: ClassVar[bool] = False  # the statistic looks at the LLM's distribution
    entropy: ClassVar[bool] = False  # the SLM's entropy is observed
    hidden: ClassVar[bool] = False  # the SLM's last hidden state is observed

    @property
    def support(self) -> int:
        """How many of the SLM's top tokens are compared."""
        return 0

    @abstractmethod
    def statistic(self, view: StepView, random: Random) -> float:
        """The step's statistic; `random` is the row's own stream."""
