"""The random trigger: a seeded coin, for controls and for timing. Needs no LLM and no calibration."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from select_to_think.triggers.base import StepView


@dataclass(frozen=True)
class RandomTrigger:
    """Uniform in [0, 1); its threshold is one minus the budget."""

    threshold: float
    name: ClassVar[str] = "random"
    needs_llm: ClassVar[bool] = False
    support: ClassVar[int] = 0
    entropy: ClassVar[bool] = False
    hidden: ClassVar[bool] = False

    def statistic(self, view: StepView, random: Random) -> float:
        """A draw from the row's own stream."""
        return random.random()
