"""The entropy trigger: the SLM is unsure. Needs no LLM."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from select_to_think.triggers.base import StepView, Trigger


@dataclass(frozen=True)
class EntropyTrigger(Trigger):
    """Shannon entropy of the SLM's next-token distribution in nats."""

    entropy: ClassVar[bool] = True

    def statistic(self, view: StepView, random: Random) -> float:
        """The entropy of this step in nats."""
        assert view.slm.entropy_nats is not None
        return float(view.slm.entropy_nats[0])
