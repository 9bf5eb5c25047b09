"""The KL trigger without an LLM forward per token: draft a block, verify it in one forward, cut at the first flip.

Same output as `policies/select.py`, which is the definition: steps that do not flip keep the SLM's greedy token, so a
greedy draft is right up to and including the position of its first flip. There both contexts are rolled back, and the
chosen token goes on.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from select_to_think.policies.base import Answer
from select_to_think.policies.select import Select
from select_to_think.structures import Extend, Observation, Observe, PolicyRun, Requests, Truncate

# Rows of a batch wait for the LLM together, as long as the longest of their blocks: blocks must not differ much.
FIRST_BLOCK, SMALLEST_BLOCK, LARGEST_BLOCK = 16, 12, 32


@dataclass(frozen=True)
class BlockVerified(Select):
    """`Select` for a trigger that needs the LLM, with about one LLM forward per flip or block."""

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode; the same tokens as `Select.run`."""
        random, answer = Random(seed), Answer(self.limits)
        fresh: Sequence[int] = prompt
        block = FIRST_BLOCK
        while answer.room:
            drafts = yield from self.draft(fresh, min(block, answer.room))
            look = yield from self.verify(fresh, drafts)
            for line, seen in enumerate(drafts):
                step, _ = yield from self.decide(seen, look, line, len(answer.steps), random, last=True)
                yield answer.add(step)
                if step.flip or not answer.room:
                    break
            block = next_block(len(drafts), line + 1, step.flip)
            kept = len(prompt) + len(answer.steps) - 1  # tokens before the newest one
            yield Truncate("slm", kept)
            yield Truncate("llm", kept)
            fresh = (step.token,)
        return self.finish(answer)

    def draft(self, fresh: Sequence[int], size: int) -> Generator[Requests, Any, list[Observation]]:
        """Greedy steps of the SLM, up to `size` or a stop token."""
        drafts: list[Observation] = []
        while len(drafts) < size:
            drafts.append((yield Extend("slm", fresh, self.observe)))
            fresh = (int(drafts[-1].top_ids[0, 0]),)
            if fresh[0] in self.limits.stop_ids:
                break
        return drafts

    def verify(
        self, fresh: Sequence[int], drafts: Sequence[Observation]
    ) -> Generator[Requests, Any, Observation | None]:
        """The LLM's view of every drafted step, in one forward."""
        yield Extend("llm", fresh[:-1])
        tokens = [fresh[-1], *(int(seen.top_ids[0, 0]) for seen in drafts[:-1])]
        ids = tuple(tuple(seen.top_ids[0]) for seen in drafts)
        seen = yield from self.reached(Extend("llm", tokens, Observe(top_k=1, ids=ids, every=True)))
        if seen is None:
            yield Extend("llm", tokens)
        return seen


def next_block(drafted: int, kept: int, flipped: bool) -> int:
    """Twice the block if all of it was kept, else twice the distance to the flip: flips come in clusters."""
    return min(LARGEST_BLOCK, max(SMALLEST_BLOCK, 2 * (kept if flipped else drafted)))
