"""The public shape of a policy, and when a sequence ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from select_to_think.structures import Counts, FinishReason, Generation, PolicyRun, StepRecord


class Policy(Protocol):
    """One decoding method; `run` is straight-line code for ONE sequence."""

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode after `prompt` (token ids, at least one); every random choice comes from `seed`."""
        ...


@dataclass(frozen=True)
class Limits:
    """When a sequence ends."""

    stop_ids: frozenset[int]
    max_new_tokens: int
    stops: Callable[[Sequence[int]], bool] | None = None  # whether these output tokens hold a stop string

    def ended(self, steps: Sequence[StepRecord]) -> bool:
        """Whether the last token, or a string that it completes, ends the sequence."""
        if not steps:
            return False
        return steps[-1].token in self.stop_ids or bool(self.stops and self.stops([step.token for step in steps]))

    def room(self, steps: Sequence[StepRecord]) -> int:
        """Tokens that may still be written; 0 once the sequence has ended."""
        return 0 if self.ended(steps) else self.max_new_tokens - len(steps)

    def finish(self, steps: Sequence[StepRecord], llm_tokens_generated: int = 0) -> Generation:
        """The finished sequence; the engine adds what it cost."""
        reason: FinishReason = "stop" if self.ended(steps) else "length"
        counts = Counts(llm_tokens_generated=llm_tokens_generated)
        return Generation(tuple(step.token for step in steps), reason, tuple(steps), counts)
