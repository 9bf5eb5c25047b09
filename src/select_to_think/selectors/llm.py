"""The LLM as selector (Select to Think) and as writer (takeover)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from select_to_think.selectors.base import Choice, Triggered, shown
from select_to_think.structures import Extend, ModelUnavailable, Observation, Observe, Requests, Undecided


@dataclass(frozen=True)
class LLMSelector:
    """S2T: the argmax of p_LLM(c | prefix) over the candidates (arXiv 2604.26940). Ties go to the SLM's order.

    With `takeover` the LLM's own top-1 over the whole vocabulary is taken instead; candidates are not scored then.
    Where the LLM is not reached, the error ends the answer, or, with `goes_on`, the SLM's own choice stands. It
    stands as well where a server's answer leaves the choice open.
    """

    takeover: bool = False
    goes_on: bool = False
    follows: ClassVar[tuple[str, ...]] = ("llm",)

    @property
    def writes(self) -> bool:
        """Under takeover the LLM's token is its own."""
        return self.takeover

    def question(self, step: Triggered) -> Extend:
        """What the LLM is asked."""
        return Extend("llm", (), Observe(top_k=1, ids=None if self.takeover else (step.candidates,), best_only=True))

    def choose(self, step: Triggered) -> Generator[Requests, Any, Choice]:
        """One LLM observation, unless the trigger has made it already; the SLM looks ahead meanwhile."""
        if step.llm is not None:
            return self.choice(step, step.llm, step.line)
        try:
            answers = yield (self.question(step), *step.look_ahead())
        except ModelUnavailable as error:
            return self.without(step, error)
        return self.choice(step, answers[0], 0, shown(answers))

    def choice(self, step: Triggered, look: Observation, line: int, ahead: Observation | None = None) -> Choice:
        """What the LLM's view of a step, line `line` of `look`, makes of it."""
        top = int(look.top_ids[line, 0])
        asked: Any = look.asked_logprobs
        if asked is None:
            return Choice(top, (), "llm", top, ahead)
        scores = asked[line, : len(step.candidates)]  # (K,)
        token = top if self.takeover else step.candidates[int(scores.argmax())]
        return Choice(token, tuple(map(float, scores)), "llm", top, ahead)

    def without(self, step: Triggered, error: ModelUnavailable) -> Choice:
        """The SLM's own choice; raises the error where it shall end the answer."""
        if self.goes_on or isinstance(error, Undecided):
            return Choice(step.candidates[0], (), "slm", llm_failed=True)
        raise error
