"""Self-consistency, maj@N: N samples that share the prompt's cache, and a true majority vote over their answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from select_to_think.policies.base import Policy, Task
from select_to_think.policies.sample import Sample
from select_to_think.structures import Commit, Extend, Fork, Generation, Join, Observe, PolicyRun


@dataclass(frozen=True)
class MajorityVote(Policy):
    """The most frequent extracted answer; ties by summed log-probability. Samples without an answer do not vote, and
    those that were cut off, whose last words are no conclusion, only where no whole one does.

    The result is the most probable sample among the winners. With `early_stop` the remaining samples are stopped once
    no other answer can win any more; the winning answer is the same.
    """

    sample: Sample
    n: int
    early_stop: bool = True
    extract: Callable[[Sequence[int]], str | None] = lambda tokens: None

    def about(self, task: Task) -> MajorityVote:
        """This vote, over what the task takes for an answer."""
        return replace(self, extract=task.extract)

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode N samples with the random streams seed/0 ... seed/N-1."""
        if len(prompt) > 1:
            yield Extend("slm", prompt[:-1], Observe())
        yield Fork([self.sample.run(prompt[-1:], f"{seed}/{i}") for i in range(self.n)])
        votes: dict[str, list[Generation]] = defaultdict(list)
        cut_off: dict[str, list[Generation]] = defaultdict(list)
        silent: list[Generation] = []
        for done in range(1, self.n + 1):
            child = yield Join()
            answer = self.extract(child.tokens)
            ballot_box = cut_off if child.finish_reason == "length" else votes
            (silent if answer is None else ballot_box[answer]).append(child)
            if self.early_stop and decided(votes, self.n - done):
                break
        counted = votes or cut_off
        ballots = tuple(answer for answer, voters in counted.items() for _ in voters)
        best = replace(max(winners(counted) or silent, key=lambda g: g.logprob), votes=ballots)
        yield Commit(best.steps)
        return best


def decided(votes: dict[str, list[Generation]], remaining: int) -> bool:
    """Whether the leading answer stays ahead whatever the `remaining` samples say."""
    first, second = sorted([0, 0, *map(len, votes.values())])[:-3:-1]
    return first > second + remaining


def winners(votes: dict[str, list[Generation]]) -> list[Generation]:
    """The samples that gave the winning answer; empty if nobody voted."""
    return max(votes.values(), key=lambda voters: (len(voters), sum(g.logprob for g in voters)), default=[])
