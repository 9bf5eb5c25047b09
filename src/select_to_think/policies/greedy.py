"""Greedy decoding of one model: `greedy` (the SLM), `distill` (its distilled form) and `llm` (the LLM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from select_to_think.policies.base import Answer, Limits, Policy
from select_to_think.structures import Counts, Extend, Observe, PolicyRun


@dataclass(frozen=True)
class Greedy(Policy):
    """The most probable token at every step."""

    limits: Limits
    model: Literal["slm", "llm"] = "slm"

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode; `seed` is not used."""
        answer, limits, by_llm = Answer(self.limits), self.limits, self.model == "llm"
        asked = (limits.alternative_ids,) if limits.alternative_ids else None
        fresh: Sequence[int] = prompt
        observe = Observe(max(1, limits.alternatives), ids=asked)
        while answer.room:
            seen = yield Extend(self.model, fresh, observe)
            step = limits.greedy(seen, chooser=self.model)
            yield answer.add(replace(step, llm_top_token=step.token) if by_llm else step)
            fresh = (step.token,)
        return answer.finish(Counts(llm_tokens_generated=len(answer.steps) if by_llm else 0))
