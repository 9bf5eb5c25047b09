"""The public shape of a policy, and when a sequence ends."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from select_to_think.models.detokenizer import StopStrings
from select_to_think.structures import (
    Chooser,
    Commit,
    Counts,
    Generation,
    Observation,
    PolicyRun,
    StepRecord,
)


@dataclass(frozen=True, slots=True)
class Task:
    """What a policy may need to know of a question beside its prompt."""

    question: str  # as text
    extract: Callable[[Sequence[int]], str | None]  # output tokens -> the answer that they give, if any
    begun: int = 0  # tokens of the answer that stand in the prompt already


class Policy(ABC):
    """One decoding method; `run` is straight-line code for ONE sequence."""

    @property
    def leaf_tokens(self) -> int:
        """Room beside the sequence that its leaves may need, beyond that for candidates."""
        return 0

    def about(self, task: Task) -> Self:
        """This policy for one question."""
        return self

    @abstractmethod
    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode after `prompt` (token ids, at least one); every random choice comes from `seed`."""


@dataclass(frozen=True)
class Limits:
    """When a sequence ends, and how much is told of its steps."""

    stop_ids: frozenset[int]
    max_new_tokens: int
    watch: Callable[[], StopStrings] | None = None  # makes what looks for stop strings in one answer
    alternatives: int = 0  # most probable tokens that each step carries ...
    alternative_ids: tuple[int, ...] = ()  # ... or these, where the policy asks for them

    def best(self, seen: Observation, line: int = 0) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The alternatives of a step: tokens and log-probabilities. Those that can never be written are left out."""
        if self.alternative_ids:
            return self.alternative_ids, tuple(map(float, seen.asked_logprobs[line]))
        if not self.alternatives:
            return (), ()
        logprobs = tuple(v for v in map(float, seen.top_logprobs[line, : self.alternatives]) if v > -math.inf)
        return tuple(map(int, seen.top_ids[line, : len(logprobs)])), logprobs

    def greedy(
        self,
        seen: Observation,
        line: int = 0,
        chooser: Chooser = "slm",
        statistic: float | None = None,
        llm_top_token: int | None = None,
        llm_failed: bool = False,
    ) -> StepRecord:
        """The most probable token of a line as a step of `chooser`, with what else is known of the step."""
        token = seen.top_ids.item(line, 0)
        ids, logprobs = self.best(seen, line)
        return StepRecord(
            token,
            seen.top_logprobs.item(line, 0),
            token if chooser == "slm" else None,
            statistic,
            llm_top_token=llm_top_token,
            chooser=chooser,
            llm_failed=llm_failed,
            alternatives=ids,
            alternative_logprobs=logprobs,
        )


class Answer:
    """The steps of one sequence, and whether it may go on."""

    def __init__(self, limits: Limits) -> None:
        """Nothing is written yet."""
        self.limits, self.ended = limits, False
        self.steps: list[StepRecord] = []
        self.watch = limits.watch() if limits.watch else None

    def add(self, *steps: StepRecord) -> Commit:
        """Append final steps, up to one that ends the answer; the policy yields what comes back, for those who read
        along.
        """
        for number, step in enumerate(steps, 1):
            if step.token in self.limits.stop_ids or (self.watch is not None and self.watch.ended_by(step.token)):
                self.ended, steps = True, steps[:number]
                break
        self.steps.extend(steps)
        return Commit(steps)

    @property
    def room(self) -> int:
        """Tokens that may still be written; 0 once the sequence has ended."""
        return 0 if self.ended else self.limits.max_new_tokens - len(self.steps)

    def finish(self, counts: Counts) -> Generation:
        """The finished sequence; the runtime adds what it cost to `counts`."""
        counts.llm_failures = sum(step.llm_failed for step in self.steps)
        tokens = tuple(step.token for step in self.steps)
        return Generation(tokens, "stop" if self.ended else "length", tuple(self.steps), counts)
