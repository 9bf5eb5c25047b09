"""The S2T-Local scorer as selector: the SLM re-ranks its own candidates, with no LLM."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from select_to_think.config import ScorerMode
from select_to_think.selectors.base import Choice, Triggered, shown
from select_to_think.structures import Branch, Observe, Requests


@dataclass(frozen=True)
class ScorerSelector:
    """Argmax of the score of each candidate: one branch of K leaves on the cache that is already there.

    bins (arXiv 2604.26940): the expected bin E(c). anchored: E(c) / T + a log p_SLM(c).

    coupled: the SLM's own leaves score. activated: leaves under the adapter of the role "scorer", on the SLM's context.
    proposer: the leaves of a context of their own, "scorer".
    """

    mode: ScorerMode
    anchored: bool
    temperature: float
    anchor: float

    writes: ClassVar[bool] = False

    @property
    def follows(self) -> tuple[str, ...]:
        """The proposer mode keeps a context of its own; the others score on the SLM's."""
        return ("scorer",) if self.mode == "proposer" else ()

    def choose(self, step: Triggered) -> Generator[Requests, Any, Choice]:
        """Score the candidates as leaves, and look ahead in the same forward."""
        if self.mode == "coupled":
            seen = yield Branch("slm", step.leaves, replace(step.ahead or Observe(), bins=True))
            ahead = seen if step.ahead else None
        else:
            model, adapter = ("scorer", None) if self.mode == "proposer" else ("slm", "scorer")
            answers = yield (Branch(model, step.leaves, Observe(bins=True), adapter=adapter), *step.look_ahead())
            seen, ahead = answers[0], shown(answers)
        scores = seen.bin_scores.astype(np.float64)  # (K,)
        if self.anchored:
            scores = scores / self.temperature + self.anchor * np.asarray(step.logprobs)
        return Choice(step.candidates[int(scores.argmax())], tuple(map(float, scores)), "scorer", ahead=ahead)
