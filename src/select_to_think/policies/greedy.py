"""Greedy decoding of one model: `greedy` (the SLM) and `llm` (the LLM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from select_to_think.policies.base import Limits
from select_to_think.structures import Extend, Observe, PolicyRun, StepRecord


@dataclass(frozen=True)
class Greedy:
    """The most probable token at every step."""

    limits: Limits
    model: str = "slm"

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode; `seed` is not used."""
        steps: list[StepRecord] = []
        fresh: Sequence[int] = prompt
        while self.limits.room(steps):
            seen = yield Extend(self.model, fresh, Observe(top_k=1))
            token = int(seen.top_ids[0, 0])
            if self.model == "slm":
                steps.append(StepRecord(token, float(seen.top_logprobs[0, 0]), greedy_token=token))
            else:
                steps.append(StepRecord(token, float(seen.top_logprobs[0, 0]), llm_top_token=token, chooser="llm"))
            fresh = (token,)
        return self.limits.finish(steps, llm_tokens_generated=len(steps) if self.model == "llm" else 0)
