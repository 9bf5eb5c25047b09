"""The S2T-Local scorer as selector: the SLM re-ranks its own candidates, with no LLM."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from select_to_think.config import ScorerMode
from select_to_think.selectors.base import Choice, Triggered, shown
from select_to_think.structures import Branch, Floats, Observation, Observe, Requests

ASKED_FIRST = 2  # candidates of a sparing selector


@dataclass(frozen=True)
class ScorerSelector:
    """Argmax of the score of each candidate: one branch of K leaves on the cache that is already there.

    bins (arXiv 2604.26940): the expected bin E(c). anchored: E(c) / T + a log p_SLM(c).

    coupled: the SLM's own leaves score. activated: leaves under the adapter of the role "scorer", on the SLM's context.
    proposer: the leaves of a context of their own, "scorer".

    Where every leaf is a request of its own, `sparing` asks for those candidates alone that can still win, and looks
    at nothing behind them; the others have the score minus infinity.
    """

    mode: ScorerMode
    anchored: bool
    temperature: float
    anchor: float
    sparing: bool = False

    writes: ClassVar[bool] = False

    @property
    def follows(self) -> tuple[str, ...]:
        """The proposer mode keeps a context of its own; the others score on the SLM's."""
        return ("scorer",) if self.mode == "proposer" else ()

    def choose(self, step: Triggered) -> Generator[Requests, Any, Choice]:
        """Score the candidates as leaves, and look ahead in the same forward."""
        if self.sparing:
            return (yield from self.choose_sparing(step))
        if self.mode == "coupled":
            seen = yield Branch("slm", step.leaves, replace(step.ahead or Observe(), bins=True))
            ahead = seen if step.ahead else None
        else:
            model, adapter = ("scorer", None) if self.mode == "proposer" else ("slm", "scorer")
            answers = yield (Branch(model, step.leaves, Observe(bins=True), adapter=adapter), *step.look_ahead())
            seen, ahead = answers[0], shown(answers)
        return self.choice(step, self.score(seen.bin_scores, np.asarray(step.logprobs)), ahead)

    def score(self, expected: Floats | float, logprobs: Any) -> Any:
        """The scores of candidates with these expected bins."""
        if self.anchored:
            return np.float64(expected) / self.temperature + self.anchor * logprobs
        return np.float64(expected) + 0 * logprobs

    def choice(self, step: Triggered, scores: Any, ahead: Observation | None = None) -> Choice:
        """The best candidate."""
        return Choice(step.candidates[int(scores.argmax())], tuple(map(float, scores)), "scorer", ahead=ahead)

    def choose_sparing(self, step: Triggered) -> Generator[Requests, Any, Choice]:
        """Score the likeliest candidates, and then those that would beat them with the best bin."""
        logprobs = np.asarray(step.logprobs)
        scores, most = np.full(len(logprobs), -np.inf), self.score(1.0, logprobs)
        asked = np.arange(min(ASKED_FIRST, len(logprobs)))
        model = "scorer" if self.mode == "proposer" else "slm"
        while len(asked):
            seen = yield Branch(model, [step.leaves[place] for place in asked], Observe(bins=True))
            scores[asked] = self.score(seen.bin_scores, logprobs[asked])
            asked = np.flatnonzero(np.isneginf(scores) & (most > scores.max()))
        return self.choice(step, scores)
