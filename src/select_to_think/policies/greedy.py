"""Greedy decoding of one model: `greedy` (the SLM), `distill` (its distilled form) and `llm` (the LLM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from select_to_think.policies.base import Answer, Limits, Policy
from select_to_think.structures import Extend, Observe, PolicyRun, StepRecord


@dataclass(frozen=True)
class Greedy(Policy):
    """The most probable token at every step."""

    limits: Limits
    model: str = "slm"

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode; `seed` is not used."""
        answer, limits, by_llm = Answer(self.limits), self.limits, self.model == "llm"
        asked = (limits.alternative_ids,) if limits.alternative_ids else None
        fresh: Sequence[int] = prompt
        observe = Observe(max(1, limits.alternatives), ids=asked)
        while answer.room:
            seen = yield Extend(self.model, fresh, observe)
            token, logprob = int(seen.top_ids[0, 0]), float(seen.top_logprobs[0, 0])
            ids, logprobs = limits.best(seen)
            step = StepRecord(
                token,
                logprob,
                greedy_token=None if by_llm else token,
                llm_top_token=token if by_llm else None,
                chooser="llm" if by_llm else "slm",
                alternatives=ids,
                alternative_logprobs=logprobs,
            )
            yield answer.add(step)
            fresh = (token,)
        return answer.finish(llm_tokens_generated=len(answer.steps) if by_llm else 0)
