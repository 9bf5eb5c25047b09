"""The margin trigger: the SLM's two best tokens are close. Needs no LLM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from select_to_think.triggers.base import StepView, Trigger


@dataclass(frozen=True)
class MarginTrigger(Trigger):
    """1 - (p1 - p2) of the SLM's two most probable tokens, in [0, 1]."""

    @property
    def support(self) -> int:
        """The two best tokens."""
        return 2

    def statistic(self, view: StepView, random: Random) -> float:
        """One minus the probability gap of this step."""
        assert view.slm.top_logprobs is not None
        first, second = view.slm.top_logprobs[0, :2]
        return 1 - (math.exp(first) - math.exp(second))
