"""Select while the LLM is far away: the SLM goes on behind the likely choices until the LLM has chosen.

Same output as `policies/select.py`, which is the definition. Behind every likely candidate grows a chain of the tokens
that the SLM would write there, all in one branch, as far as no trigger fires. When the choice arrives, its chain is
kept and the others are dropped; a choice that is no candidate (takeover) drops them all.

A row does so only while nobody else has anything to compute (`Collect`). Growing a branch computes its tokens again at
every step, so the fewer chains the longer they become, and the least probable ones stop first.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
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
    Extend,
    ModelUnavailable,
    Observation,
    PolicyRun,
    Requests,
    StepRecord,
    Submit,
)

BRANCH_TOKENS = 128  # of all chains that still grow
LIKELY = math.log(0.1)  # nats below the best candidate; behind less likely ones no chain grows


@dataclass(eq=False)
class Chain:
    """A candidate, and what the SLM writes behind it."""

    tokens: list[int]
    random: Random  # the row's own, as it would be behind these tokens
    likely: bool
    seen: Observation | None = None  # behind the last token
    steps: list[StepRecord] = field(default_factory=list)  # of the tokens behind the candidate


@dataclass
class Guess:
    """The chains of one divergence point, in the order of the candidates."""

    number: int  # of the step
    chains: list[Chain]
    branched: list[Chain] = field(default_factory=list)  # the leaves of the last branch
    grown: int = 0  # tokens of the branches behind the first


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
        random, answer, discarded = Random(seed), Answer(self.limits), 0
        fresh: Sequence[int] = prompt
        ahead: Observation | None = None
        while answer.room:
            yield Extend("llm", fresh)
            seen = ahead or (yield Extend("slm", fresh, self.observe))
            step, ahead = self.proposal(seen, None, 0, random), None
            steps, fresh = [step], (step.token,)
            if self.fires(step, number := len(answer.steps)):
                triggered = self.triggered(seen, last=answer.room == 1)
                guess = Guess(number, [] if answer.room == 1 else self.chains(triggered, random))
                choice = yield from self.wait(triggered, guess, answer.room)
                step, place = chosen(step, triggered, choice)
                steps, fresh = [step], (step.token,)
                if place is not None and guess.chains:
                    kept = guess.chains[place]
                    adopted = kept in guess.branched
                    yield Adopt("slm", guess.branched.index(kept)) if adopted else Extend("slm", kept.tokens)
                    steps, fresh, ahead, random = [step, *kept.steps], kept.tokens, kept.seen, kept.random
                discarded += guess.grown - len(fresh) + 1 if guess.grown else 0
            for each in steps:
                if answer.room:
                    yield answer.add(each)
        return self.finish(answer, discarded)

    def chains(self, triggered: Triggered, random: Random) -> list[Chain]:
        """A chain for each candidate."""
        least = triggered.logprobs[0] + LIKELY
        pairs = zip(triggered.candidates, triggered.logprobs, strict=True)
        return [Chain([candidate], copied(random), logprob >= least) for candidate, logprob in pairs]

    def wait(self, triggered: Triggered, guess: Guess, room: int) -> Generator[Requests, Any, Choice]:
        """The LLM's choice; meanwhile the chains grow."""
        yield Submit(self.selector.question(triggered))
        growing = guess.chains
        try:
            while True:
                if growing:
                    seen = yield Branch("slm", [chain.tokens for chain in growing], self.observe)
                    for line, chain in enumerate(growing):
                        chain.seen = seen.line(line)
                    guess.branched = list(growing)
                found = yield Collect(wait=not growing)
                if found is not None:
                    return self.selector.choice(triggered, found, 0)
                growing = [chain for chain in growing if chain.likely]
                while sum(len(chain.tokens) + 1 for chain in growing) > BRANCH_TOKENS:
                    growing.pop()
                growing = [chain for chain in growing if self.grow(chain, guess.number, room)]
                guess.grown += sum(len(chain.tokens) for chain in growing)
        except ModelUnavailable as error:
            return self.selector.without(triggered, error)

    def grow(self, chain: Chain, number: int, room: int) -> bool:
        """Write one token more; False where the sequence ends, or the LLM would be asked."""
        if chain.tokens[-1] in self.limits.stop_ids or len(chain.tokens) == room:
            return False
        assert chain.seen is not None
        before = chain.random.getstate()
        step = self.proposal(chain.seen, None, 0, chain.random)
        if self.fires(step, number + len(chain.tokens)):
            chain.random.setstate(before)
            return False
        chain.steps.append(step)
        chain.tokens.append(step.token)
        return True


def copied(random: Random) -> Random:
    """The same stream again."""
    other = Random()
    other.setstate(random.getstate())
    return other
