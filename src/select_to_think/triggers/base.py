"""The public shape of a trigger: one record says what it looks at and what its statistic is.

The statistic is written once, for P steps at a time. Decoding, calibration, collection and labels all use it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from select_to_think.structures import Floats, Observation, S2TError

if TYPE_CHECKING:
    from select_to_think.artefacts import Artefacts
    from select_to_think.models.scorer import Scorer

Statistic = Callable[[Observation, Observation | None], Floats]  # of the SLM's and the LLM's view of P steps -> (P,)


@dataclass(frozen=True)
class TriggerKind:
    """One kind of trigger. Every statistic is oriented so that higher means more divergent.

    `statistic` gets the SLM's observation of P steps and, if the trigger needs it, the LLM's, whose `asked_logprobs`
    are those of the SLM's top ids. It is None where a trigger needs more than that, or brings thresholds of its own;
    such a trigger is made by `fit` from a pair and a budget.
    """

    name: str
    help: str
    statistic: Statistic | None = None
    support: int = 0  # how many of the SLM's top tokens are observed
    needs_llm: bool = False  # looks at the LLM's distribution over the SLM's vocabulary
    entropy: bool = False  # the SLM's entropy is observed
    hidden: bool = False  # the SLM's last hidden state is observed
    fit: Callable[[Artefacts, float], Trigger] | None = None

    def at(self, threshold: float, warm_up_steps: int = 0) -> Trigger:
        """The trigger that fires above `threshold`, but not at the first steps of an answer."""
        statistic = self.statistic
        assert statistic is not None
        return Trigger(self, threshold, lambda slm, llm, _: statistic(slm, llm), warm_up_steps)

    def for_budget(
        self, pair: Artefacts, budget: float, coupled: Scorer | None = None, warm_up_steps: int = 0
    ) -> Trigger:
        """The trigger that fires on about a fraction `budget` of the steps that the SLM proposes, or with a `coupled`
        scorer the SLM with its adapter on; the first `warm_up_steps` of an answer neither fire nor count.

        Raises:
            S2TError: there are no thresholds for this model, or they were made with another LLM.
        """
        if coupled is not None and self.hidden:
            raise S2TError(
                f"the {self.name} trigger reads hidden states of the base SLM, and a coupled scorer's adapter changes "
                "them: choose entropy or margin, or a scorer of another mode"
            )
        if self.fit is not None:
            return replace(self.fit(pair, budget), warm_up_steps=warm_up_steps)
        threshold = pair.thresholds(coupled).threshold(self.name, budget, warm_up_steps)
        if self.needs_llm and pair.calibration.llm_fingerprint != pair.llm.fingerprint:
            raise S2TError(
                f"the {self.name} trigger was calibrated with another LLM than {pair.llm.name}: "
                "run `s2t calibrate` again"
            )
        return self.at(threshold, warm_up_steps)


@dataclass(frozen=True)
class Trigger:
    """Decides whether a step is a divergence point: it fires when the statistic exceeds `threshold`, but never at the
    first `warm_up_steps` of an answer."""

    kind: TriggerKind
    threshold: float
    measure: Callable[[Observation, Observation | None, Random], Floats]  # (P,)
    warm_up_steps: int = 0

    def statistic(self, slm: Observation, llm: Observation | None, random: Random) -> float:
        """The statistic of one step; `random` is the row's own stream."""
        return float(self.measure(slm, llm, random)[0])

    def fires(self, statistic: float, number: int) -> bool:
        """Whether step `number` of an answer, from 0 on, is a divergence point."""
        return number >= self.warm_up_steps and statistic > self.threshold
