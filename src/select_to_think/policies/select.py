"""Select to Think, step by step: the plain definition of `takeover`, `s2t` and `s2t-local`.

At every step the SLM proposes; where the trigger fires, a selector picks among the SLM's top-K (takeover: the LLM picks
from the whole vocabulary). The methods differ only in the trigger and the selector they are given.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from random import Random

from select_to_think.policies.base import Limits
from select_to_think.selectors.base import Selector, Triggered
from select_to_think.structures import Extend, Generation, Observation, Observe, PolicyRun, Request, StepRecord
from select_to_think.triggers.base import StepView, Trigger


@dataclass(frozen=True)
class Select:
    """Decode with the SLM, and let `selector` decide where `trigger` fires."""

    limits: Limits
    trigger: Trigger
    selector: Selector
    candidates: int

    @property
    def support(self) -> int:
        """How many of the SLM's top tokens a step observes."""
        return max(self.candidates, self.trigger.support)

    @property
    def observe(self) -> Observe:
        """What a step asks of the SLM."""
        return Observe(top_k=self.support, entropy=self.trigger.entropy, hidden=self.trigger.hidden)

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode; the random trigger draws from `seed`."""
        random = Random(seed)
        steps: list[StepRecord] = []
        fresh: Sequence[int] = prompt
        follows = {*self.selector.follows, *(("llm",) if self.trigger.needs_llm else ())}
        while self.limits.room(steps):
            seen = yield Extend("slm", fresh, self.observe)
            for model in follows:
                yield Extend(model, fresh)
            look = None
            if self.trigger.needs_llm:
                look = yield Extend("llm", (), Observe(top_k=1, ids=(tuple(seen.top_ids[0]),)))
            steps.append((yield from self.decide(seen, look, 0, random)))
            fresh = (steps[-1].token,)
        return self.finish(steps)

    def decide(
        self, seen: Observation, look: Observation | None, line: int, random: Random
    ) -> Generator[Request, Observation, StepRecord]:
        """One step: the SLM saw `seen`; if the LLM was asked, line `line` of `look` is its view of this step."""
        assert seen.top_ids is not None and seen.top_logprobs is not None
        greedy, logprob = int(seen.top_ids[0, 0]), float(seen.top_logprobs[0, 0])
        llm_top = None if look is None or look.top_ids is None else int(look.top_ids[line, 0])
        statistic = self.trigger.statistic(StepView(seen, look, line), random)
        if not statistic > self.trigger.threshold:
            return StepRecord(greedy, logprob, greedy_token=greedy, statistic=statistic, llm_top_token=llm_top)
        logprobs = tuple(v for v in map(float, seen.top_logprobs[0, : self.candidates]) if v > -math.inf)
        candidates = tuple(map(int, seen.top_ids[0, : len(logprobs)]))
        choice = yield from self.selector.choose(Triggered(candidates, logprobs, look, line))
        return StepRecord(
            token=choice.token,
            logprob=logprobs[candidates.index(choice.token)] if choice.token in candidates else -math.inf,
            greedy_token=greedy,
            statistic=statistic,
            fired=True,
            candidates=candidates,
            candidate_logprobs=logprobs,
            scores=choice.scores,
            llm_top_token=choice.llm_top_token,
            chooser=choice.chooser,
        )

    def finish(self, steps: Sequence[StepRecord]) -> Generation:
        """The finished sequence; a token that the LLM selected is not one that it generated."""
        return self.limits.finish(steps, sum(step.fired for step in steps) if self.selector.writes else 0)
