"""The S2T-Local scorer as selector: the SLM re-ranks its own candidates, with no LLM."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from select_to_think.config import ScorerForm
from select_to_think.selectors.base import Choice, Triggered, shown
from select_to_think.structures import Branch, Extend, Floats, Observation, Observe, Requests

ASKED_FIRST = 2  # candidates of a sparing selector


@dataclass(frozen=True)
class ScorerSelector(ScorerForm):
    """Argmax of the score of each candidate: one branch of K leaves on the cache that is already there.

    coupled: the SLM's own leaves score. activated: leaves under the adapter of the role "scorer", on the SLM's context.
    proposer: the leaves of a context of their own, "scorer".

    Where every leaf is a request of its own, `sparing` asks for those candidates alone that can still win, and looks
    at nothing behind them; the others have the score minus infinity.
    """

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
        logprobs: Sequence[float] | Floats = step.logprobs
        if self.mode == "coupled":
            seen = yield Branch("slm", step.leaves, replace(step.ahead or Observe(), bins=True))
            ahead = seen if step.ahead else None
        else:
            model, adapter = ("scorer", None) if self.mode == "proposer" else ("slm", "scorer")
            own = (Extend(model, (), Observe(ids=(step.candidates,))),) if self.score == "adapted" else ()
            leaves = Branch(model, step.leaves, Observe(bins=True), adapter=adapter)
            answers = yield (leaves, *own, *step.look_ahead())
            seen, ahead = answers[0], shown(answers)
            if self.score == "adapted":
                logprobs = answers[1].asked_logprobs[0]
        return self.choice(step, self.scored(seen.bin_scores, np.asarray(logprobs, np.float64)), ahead)

    def scored(self, expected: Floats | float, logprobs: Any) -> Any:
        """The scores of K candidates with these expected bins (K,), or with one for all."""
        if self.score == "bins":
            return np.float64(expected) + 0 * logprobs
        return np.float64(expected) / self.score_temperature + self.anchor * logprobs

    def choice(self, step: Triggered, scores: Any, ahead: Observation | None = None) -> Choice:
        """The best candidate."""
        return Choice(step.candidates[int(scores.argmax())], tuple(map(float, scores)), "scorer", ahead=ahead)

    def choose_sparing(self, step: Triggered) -> Generator[Requests, Any, Choice]:
        """Score the likeliest candidates, and then those that would beat them with the best bin."""
        logprobs = np.asarray(step.logprobs, np.float64)
        scores, most = np.full(len(logprobs), -np.inf), self.scored(1.0, logprobs)
        asked = np.arange(min(ASKED_FIRST, len(logprobs)))
        model = "scorer" if self.mode == "proposer" else "slm"
        while len(asked):
            seen = yield Branch(model, [step.leaves[place] for place in asked], Observe(bins=True))
            scores[asked] = self.scored(seen.bin_scores, logprobs[asked])
            asked = np.flatnonzero(np.isneginf(scores) & (most > scores.max()))
        return self.choice(step, scores)
