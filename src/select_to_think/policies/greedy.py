"""Greedy decoding of one model: `greedy` (the SLM), `distill` (its distilled form) and `llm` (the LLM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from select_to_think.policies.base import Answer, Limits, Policy
from select_to_think.structures import Counts, Extend, Observe, PolicyRun


@dataclass(frozen=True)
class Greedy(Policy):
    """The most probable token at every step."""

    limits: Limits
    model: Literal["slm", "llm"] = "slm"

    @cached_property
    def observe(self) -> Observe:
        """What a step asks of the model."""
        limits = self.limits
        return Observe(max(1, limits.alternatives), ids=(limits.alternative_ids,) if limits.alternative_ids else None)

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode; `seed` is not used."""
        answer, limits, by_llm = Answer(self.limits), self.limits, self.model == "llm"
        fresh: Sequence[int] = prompt
        while answer.room:
            seen = yield Extend(self.model, fresh, self.observe)
            step = limits.greedy(seen, chooser=self.model)
            yield answer.add(replace(step, llm_top_token=step.token) if by_llm else step)
            fresh = (step.token,)
        return answer.finish(Counts(llm_tokens_generated=len(answer.steps) if by_llm else 0))
