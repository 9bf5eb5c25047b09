"""The margin trigger: the SLM's two best tokens are close. Needs no LLM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from select_to_think.triggers.base import StepView


@dataclass(frozen=True)
class MarginTrigger:
    """1 - (p1 - p2) of the SLM's two most probable tokens, in [0, 1]."""

    threshold: float
    name: ClassVar[str] = "margin"
    needs_llm: ClassVar[bool] = False
    support: ClassVar[int] = 2
    entropy: ClassVar[bool] = False
    hidden: ClassVar[bool] = False

    def statistic(self, view: StepView, random: Random) -> float:
        """One minus the probability gap of this step."""
        assert view.slm.top_logprobs is not None
        first, second = view.slm.top_logprobs[0, :2]
        return 1 - (math.exp(first) - math.exp(second))
