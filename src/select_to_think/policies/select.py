"""Select to Think, step by step: the plain definition of `takeover`, `s2t` and `s2t-local`.

At every step the SLM proposes; where the trigger fires, a selector picks among the SLM's top-K (takeover: the LLM picks
from the whole vocabulary). The methods differ only in the trigger and the selector they are given.

What scores the candidates shows in the same forward what follows each of them (`ahead`), so the sequence goes on with
the chosen one and no forward is added.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any, Self

from select_to_think.policies.base import Answer, Limits, Policy, Task
from select_to_think.selectors.base import Choice, Selector, Triggered
from select_to_think.structures import (
    Adopt,
    Counts,
    Extend,
    Generation,
    ModelUnavailable,
    Observation,
    Observe,
    PolicyRun,
    Requests,
    StepRecord,
)
from select_to_think.triggers.base import Trigger


@dataclass(frozen=True)
class Select(Policy):
    """Decode with the SLM, and let `selector` decide where `trigger` fires."""

    limits: Limits
    trigger: Trigger
    selector: Selector
    candidates: int
    goes_on: bool = False  # with the SLM's own choice where a trigger that needs the LLM does not reach it
    begun: int = 0  # steps of the answer before the first one here

    def about(self, task: Task) -> Self:
        """This policy for an answer that may have begun."""
        return replace(self, begun=task.begun)

    @cached_property
    def observe(self) -> Observe:
        """What a step asks of the SLM."""
        kind = self.trigger.kind
        return Observe(
            max(self.candidates, kind.support, self.limits.alternatives), entropy=kind.entropy, hidden=kind.hidden
        )

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode; the random trigger draws from `seed`."""
        random, answer = Random(seed), Answer(self.limits)
        follows = {*self.selector.follows, *(("llm",) if self.trigger.kind.needs_llm else ())}
        fresh: Sequence[int] = prompt
        ahead: Observation | None = None
        while answer.room:
            for model in follows:
                yield Extend(model, fresh)
            seen = ahead or (yield Extend("slm", fresh, self.observe))
            look = None
            if self.trigger.kind.needs_llm:
                look = yield from self.reached(Extend("llm", (), Observe(top_k=1, ids=(tuple(seen.top_ids[0]),))))
            step, ahead = yield from self.decide(seen, look, 0, len(answer.steps), random, last=answer.room == 1)
            yield answer.add(step)
            fresh = (step.token,)
        return self.finish(answer)

    def reached(self, request: Extend) -> Generator[Requests, Any, Observation | None]:
        """What the LLM says; None where it is not reached and the SLM shall go on alone."""
        try:
            seen: Observation = yield request
        except ModelUnavailable:
            if not self.goes_on:
                raise
            return None
        return seen

    def decide(
        self, seen: Observation, look: Observation | None, line: int, number: int, random: Random, *, last: bool
    ) -> Generator[Requests, Any, tuple[StepRecord, Observation | None]]:
        """Step `number`, and what the SLM sees behind it if that is known already.

        The SLM saw `seen`; if the LLM was asked, line `line` of `look` is its view of this step. Nothing is looked at
        behind the `last` step.
        """
        if look is None and self.trigger.kind.needs_llm:
            return self.limits.greedy(seen, llm_failed=True), None
        step = self.proposal(seen, look, line, random)
        if not self.fires(step, number):
            return step, None
        triggered = self.triggered(seen, look, line, last=last)
        choice = yield from self.selector.choose(triggered)
        step, place = chosen(step, triggered, choice)
        if choice.ahead is None or place is None:
            return step, None
        yield Adopt("slm", place)
        return step, choice.ahead.line(place)

    def proposal(self, seen: Observation, look: Observation | None, line: int, random: Random) -> StepRecord:
        """The step as the SLM would take it, with the trigger's statistic."""
        return self.limits.greedy(
            seen,
            statistic=self.trigger.statistic(seen, None if look is None else look.line(line), random),
            llm_top_token=None if look is None else int(look.top_ids[line, 0]),
        )

    def fires(self, step: StepRecord, number: int) -> bool:
        """Whether a proposal, for step `number` behind what had begun, is a divergence point."""
        return step.statistic is not None and self.trigger.fires(step.statistic, self.begun + number)

    def triggered(self, seen: Observation, look: Observation | None = None, line: int = 0, *, last: bool) -> Triggered:
        """A divergence point, as the selector is shown it."""
        logprobs = tuple(v for v in map(float, seen.top_logprobs[0, : self.candidates]) if v > -math.inf)
        candidates = tuple(map(int, seen.top_ids[0, : len(logprobs)]))
        return Triggered(candidates, logprobs, look, line, None if last else self.observe)

    def finish(self, answer: Answer, counts: Counts | None = None) -> Generation:
        """The finished sequence; a token that the LLM selected is not one that it generated."""
        counts = counts or Counts()
        if self.selector.writes:
            counts.llm_tokens_generated = sum(step.fired and not step.llm_failed for step in answer.steps)
        return answer.finish(counts)


def chosen(step: StepRecord, triggered: Triggered, choice: Choice) -> tuple[StepRecord, int | None]:
    """A proposal after the selector's choice, and the choice's place among the candidates, if it is one of them."""
    place = triggered.candidates.index(choice.token) if choice.token in triggered.candidates else None
    changed = replace(
        step,
        token=choice.token,
        logprob=-math.inf if place is None else triggered.logprobs[place],
        fired=True,
        candidates=triggered.candidates,
        candidate_logprobs=triggered.logprobs,
        scores=choice.scores,
        llm_top_token=choice.llm_top_token,
        chooser=choice.chooser,
        llm_failed=choice.llm_failed,
    )
    return changed, place
