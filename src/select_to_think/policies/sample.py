"""Sampling from the SLM with temperature, top-p, top-k and min-p."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from select_to_think.policies.base import Answer, Limits, Policy
from select_to_think.structures import Counts, Extend, Observe, PolicyRun, Sampling, StepRecord


@dataclass(frozen=True)
class Sample(Policy):
    """One random token a step; the row's numbers come from its own seed, never from its neighbours."""

    limits: Limits
    temperature: float
    top_p: float
    top_k: int
    min_p: float

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode with the random stream of `seed`."""
        random, answer = Random(seed), Answer(self.limits)
        fresh: Sequence[int] = prompt
        while answer.room:
            draw = Sampling(random.random(), self.temperature, self.top_p, self.top_k, self.min_p)
            seen = yield Extend("slm", fresh, Observe(self.limits.alternatives, sampling=draw))
            ids, logprobs = self.limits.best(seen)
            yield answer.add(
                StepRecord(seen.sampled_id, seen.sampled_logprob, alternatives=ids, alternative_logprobs=logprobs)
            )
            fresh = (seen.sampled_id,)
        return answer.finish(Counts())
