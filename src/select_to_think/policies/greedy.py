"""Greedy decoding of one model: `greedy` (the SLM), `distill` (its distilled form) and `llm` (the LLM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from select_to_think.policies.base import Answer, Limits, Policy
from select_to_think.structures import Extend, Observe, PolicyRun, StepRecord


@dataclass(frozen=True)
class Greedy(Policy):
    """The most probable token at every step."""

    limits: Limits
    model: str = "slm"

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode; `seed` is not used."""
        answer, limits = Answer(self.limits), self.limits
        asked = (limits.alternative_ids,) if limits.alternative_ids else None
        fresh: Sequence[int] = prompt
        while answer.room:
            seen = yield Extend(self.model, fresh, Observe(max(1, limits.alternatives), ids=asked))
            token, logprob = int(seen.top_ids[0, 0]), float(seen.top_logprobs[0, 0])
            ids, logprobs = limits.best(seen)
            step = StepRecord(token, logprob, alternatives=ids, alternative_logprobs=logprobs)
            if self.model == "slm":
                yield answer.add(replace(step, greedy_token=token))
            else:
                yield answer.add(replace(step, llm_top_token=token, chooser="llm"))
            fresh = (token,)
        return answer.finish(llm_tokens_generated=len(answer.steps) if self.model == "llm" else 0)
