"""The entropy trigger: the SLM is unsure. Needs no LLM."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from select_to_think.triggers.base import StepView


@dataclass(frozen=True)
class EntropyTrigger:
    """Shannon entropy of the SLM's next-token distribution in nats."""

    threshold: float
    name: ClassVar[str] = "entropy"
    needs_llm: ClassVar[bool] = False
    support: ClassVar[int] = 0
    entropy: ClassVar[bool] = True
    hidden: ClassVar[bool] = False

    def statistic(self, view: StepView, random: Random) -> float:
        """The entropy of this step in nats."""
        assert view.slm.entropy_nats is not None
        return float(view.slm.entropy_nats[0])
