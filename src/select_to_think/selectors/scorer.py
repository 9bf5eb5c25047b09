"""The S2T-Local scorer as selector: the SLM re-ranks its own candidates, with no LLM."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from select_to_think.selectors.base import Choice, Triggered
from select_to_think.structures import Branch, Observation, Observe, Request


@dataclass(frozen=True)
class ScorerSelector:
    """Argmax of the score of each candidate: one branch of K leaves on the cache that is already there.

    bins (arXiv 2604.26940): the expected bin E(c). anchored: E(c) / T + a log p_SLM(c).
    """

    model: str  # the context whose leaves are scored: "slm" (coupled, activated) or "scorer" (proposer)
    anchored: bool
    temperature: float
    anchor: float

    writes: ClassVar[bool] = False

    @property
    def follows(self) -> tuple[str, ...]:
        """The proposer mode keeps a context of its own; the others score on the SLM's."""
        return () if self.model == "slm" else (self.model,)

    def choose(self, step: Triggered) -> Generator[Request, Observation, Choice]:
        """Score the candidates as leaves."""
        seen = yield Branch(self.model, tuple((c,) for c in step.candidates), Observe(bins=True))
        assert seen.bin_scores is not None
        scores = seen.bin_scores.astype(np.float64)  # (K,)
        if self.anchored:
            scores = scores / self.temperature + self.anchor * np.asarray(step.logprobs)
        return Choice(step.candidates[int(scores.argmax())], tuple(map(float, scores)), "scorer")
