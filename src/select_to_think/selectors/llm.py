"""The LLM as selector (Select to Think) and as writer (takeover)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from select_to_think.selectors.base import Choice, Triggered, shown
from select_to_think.structures import Extend, ModelUnavailable, Observe, Requests, Undecided


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

    def choose(self, step: Triggered) -> Generator[Requests, Any, Choice]:
        """One LLM observation, unless the trigger has made it already; the SLM looks ahead meanwhile."""
        look, line, ahead = step.llm, step.line, None
        if look is None:
            asked = None if self.takeover else (step.candidates,)
            try:
                answers = yield (Extend("llm", (), Observe(top_k=1, ids=asked, best_only=True)), *step.look_ahead())
            except ModelUnavailable as error:
                if not (self.goes_on or isinstance(error, Undecided)):
                    raise
                return Choice(step.candidates[0], (), "slm", llm_failed=True)
            look, line, ahead = answers[0], 0, shown(answers)
        assert look is not None
        top = int(look.top_ids[line, 0])
        if look.asked_logprobs is None:
            return Choice(top, (), "llm", top, ahead)
        scores = look.asked_logprobs[line, : len(step.candidates)]  # (K,)
        token = top if self.takeover else step.candidates[int(scores.argmax())]
        return Choice(token, tuple(map(float, scores)), "llm", top, ahead)
