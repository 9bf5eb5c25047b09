"""The learned trigger: a small head on the SLM's last hidden state that predicts the KL trigger. Needs no LLM."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from select_to_think.models.trigger_head import TriggerHead
from select_to_think.triggers.base import StepView, Trigger


@dataclass(frozen=True)
class LearnedTrigger(Trigger):
    """The head's logit for "this is a divergence point" (the distilled trigger of arXiv 2604.26940)."""

    head: TriggerHead
    hidden: ClassVar[bool] = True

    def statistic(self, view: StepView, random: Random) -> float:
        """The logit of this step."""
        assert view.slm.hidden is not None
        return float(self.head(view.slm.hidden[:1])[0])
