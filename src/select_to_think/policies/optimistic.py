"""Select while the LLM is far away: the SLM goes on behind the likely choices until the LLM has chosen.

Same output as `policies/select.py`, which is the definition. Behind every likely candidate of a divergence point grows
a chain of the tokens that the SLM would write there, all chains in one branch. Where a chain comes to a divergence
point of its own, the LLM is asked about that one at once, ahead of the first answer, and chains grow behind its
candidates as well. When the choice at the first point arrives, its chain is kept, with what it leads to, and the others
are dropped; a choice that is no candidate (takeover) drops them all.

A row does so only while nobody else has anything to compute (`Collect`). Chains have room for so many tokens together;
the least probable ones stop first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from select_to_think.policies.base import Answer
from select_to_think.policies.select import Select, chosen
from select_to_think.selectors.base import Choice, Triggered
from select_to_think.selectors.llm import LLMSelector
from select_to_think.structures import (
    Adopt,
    Branch,
    Collect,
    Counts,
    Extend,
    ModelUnavailable,
    Observation,
    PolicyRun,
    Requests,
    StepRecord,
    Submit,
)

BRANCH_TOKENS = 128  # of all chains that still grow
QUESTIONS = 3  # under way at once
LIKELY = math.log(0.1)  # nats below the best candidates on its way; a less likely chain does not grow


@dataclass(eq=False)
class Chain:
    """What the SLM writes behind a candidate of a divergence point, as far as the next one."""

    tokens: list[int]  # behind what is certain
    random: Random  # the row's own, as it would be behind these tokens
    logprob: float = 0.0  # of the choices on its way, less that of the best ones
    seen: Observation | None = None  # behind the last token
    steps: list[StepRecord] = field(default_factory=list)  # of the tokens behind the candidate
    point: Point | None = None  # that it has come to


@dataclass(eq=False)
class Point:
    """A divergence point about which the LLM has been asked."""

    step: StepRecord  # as the SLM would take it
    triggered: Triggered
    chains: list[Chain] = field(default_factory=list)  # behind the candidates, best first; none behind the last step
    answer: Observation | ModelUnavailable | None = None


@dataclass(frozen=True)
class Optimistic(Select):
    """`Select` for an LLM that is waited for, and a trigger that does not need it."""

    selector: LLMSelector

    @property
    def leaf_tokens(self) -> int:
        """Room for the chains."""
        return BRANCH_TOKENS

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode; the same tokens as `Select.run`."""
        answer = Answer(self.limits)
        guesses = Guesses(self, answer)
        certain = Chain([], Random(seed))
        fresh: Sequence[int] = prompt
        while answer.room:
            yield Extend("llm", fresh)
            if certain.point is None:
                if certain.seen is None:
                    certain.seen = yield Extend("slm", fresh, self.observe)
                step = yield from guesses.look(certain)
                if step is not None:
                    yield answer.add(step)
                    certain.seen, fresh = None, (step.token,)
                    continue
            steps, certain = yield from guesses.resolve(certain)
            fresh = [step.token for step in steps]
            for step in steps:
                if answer.room:
                    yield answer.add(step)
        return self.finish(answer, guesses.discarded)


@dataclass(eq=False)
class Guesses:
    """What one sequence computes ahead, and what it waits for."""

    policy: Optimistic
    answer: Answer
    waiting: deque[Point] = field(default_factory=deque)  # in the order of the questions
    branched: list[Chain] = field(default_factory=list)  # the leaves of the last branch, while one can be adopted
    discarded: Counts = field(default_factory=Counts)

    def look(self, chain: Chain) -> Generator[Requests, Any, StepRecord | None]:
        """The SLM's next step; None at a divergence point, about which the LLM is asked if not too much is yet."""
        policy, number = self.policy, len(self.answer.steps) + len(chain.tokens)
        assert chain.seen is not None
        before = chain.random.getstate()
        step = policy.proposal(chain.seen, None, 0, chain.random)
        if not policy.fires(step, number):
            return step
        if chain.tokens and len(self.waiting) >= QUESTIONS:
            chain.random.setstate(before)
            return None
        last = len(chain.tokens) + 1 == self.answer.room
        triggered = policy.triggered(chain.seen, last=last)
        question = policy.selector.question(triggered)
        assert question.observe is not None
        supposed = Branch("llm", (tuple(chain.tokens),), question.observe)
        yield Submit(supposed if chain.tokens else question)
        chain.point = Point(step, triggered)
        if not last:
            for candidate, logprob in zip(triggered.candidates, triggered.logprobs, strict=True):
                below = chain.logprob + logprob - triggered.logprobs[0]
                chain.point.chains.append(Chain([*chain.tokens, candidate], copied(chain.random), below))
        self.waiting.append(chain.point)
        self.discarded.llm_questions_discarded += 1
        return None

    def resolve(self, certain: Chain) -> Generator[Requests, Any, tuple[list[StepRecord], Chain]]:
        """The step at the first point and those behind it that are known, and the chain that goes on there."""
        point = certain.point
        assert point is not None
        choice = yield from self.wait(certain, point)
        self.discarded.llm_questions_discarded -= 1
        step, place = chosen(point.step, point.triggered, choice)
        kept = None if place is None or not point.chains else point.chains[place]
        if kept is None or kept.seen is None:
            return [step], Chain([], certain.random)
        branched, self.branched = self.branched, []
        yield Adopt("slm", branched.index(kept)) if kept in branched else Extend("slm", tuple(kept.tokens))
        self.discarded.slm_tokens_discarded -= len(kept.steps)
        length, logprob = len(kept.tokens), kept.logprob
        for chain in (kept, *behind(kept)):
            chain.tokens, chain.logprob = chain.tokens[length:], chain.logprob - logprob
        return [step, *kept.steps], kept

    def wait(self, certain: Chain, point: Point) -> Generator[Requests, Any, Choice]:
        """The LLM's choice; meanwhile the chains behind the point grow."""
        selector = self.policy.selector
        while point.answer is None:
            unseen = yield from self.lengthened(certain)
            if unseen:
                seen = yield Branch("slm", [chain.tokens for chain in unseen], self.policy.observe)
                for line, chain in enumerate(unseen):
                    chain.seen = seen.line(line)
                self.branched = unseen
                self.discarded.slm_tokens_discarded += sum(bool(chain.steps) for chain in unseen)
            try:
                found = yield Collect(wait=not unseen)
            except ModelUnavailable as error:
                found = error
            if found is not None:
                self.waiting.popleft().answer = found
        if isinstance(point.answer, ModelUnavailable):
            return selector.without(point.triggered, point.answer)
        return selector.choice(point.triggered, point.answer, 0)

    def lengthened(self, certain: Chain) -> Generator[Requests, Any, list[Chain]]:
        """The chains that have a token more than the SLM has seen, the likeliest first, as far as there is room."""
        found: list[Chain] = []
        room = BRANCH_TOKENS
        ends = [chain for chain in behind(certain) if chain.point is None]
        for end in sorted(ends, key=lambda chain: -chain.logprob):
            for chain in (yield from self.longer(end, room)):
                first = len(chain.tokens) == 1
                if first or (chain.logprob >= LIKELY and len(chain.tokens) <= room):
                    found.append(chain)
                    room -= len(chain.tokens)
        return found

    def longer(self, chain: Chain, room: int) -> Generator[Requests, Any, list[Chain]]:
        """A chain with one token more, or what begins behind it; nothing where it does not grow."""
        if chain.seen is None:
            return [chain]
        ended = chain.tokens[-1] in self.policy.limits.stop_ids or len(chain.tokens) == self.answer.room
        if ended or chain.logprob < LIKELY or len(chain.tokens) >= room:
            return []
        step = yield from self.look(chain)
        if step is None:
            return chain.point.chains if chain.point else []
        chain.steps.append(step)
        chain.tokens.append(step.token)
        return [chain]


def behind(chain: Chain) -> Iterator[Chain]:
    """All chains to which a chain leads."""
    for each in chain.point.chains if chain.point else ():
        yield each
        yield from behind(each)


def copied(random: Random) -> Random:
    """The same stream again."""
    other = Random()
    other.setstate(random.getstate())
    return other
