"""The random trigger: a seeded coin, for controls and for timing. Needs no LLM and no calibration."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from select_to_think.triggers.base import StepView, Trigger


@dataclass(frozen=True)
class RandomTrigger(Trigger):
    """Uniform in [0, 1); its threshold is one minus the budget."""

    def statistic(self, view: StepView, random: Random) -> float:
        """A draw from the row's own stream."""
        return random.random()
