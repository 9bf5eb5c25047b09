"""The decisions of `Greedy` and `Select` where an engine decodes by itself, and pauses at divergence points.

The trigger is the engine's, which answers one request with many steps, as far as the next divergence point; what is
selected there, and how, is the policy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from select_to_think.policies.base import Answer, Limits, Policy, Task
from select_to_think.policies.greedy import Greedy
from select_to_think.policies.select import Select, chosen
from select_to_think.selectors.scorer import ScorerSelector
from select_to_think.structures import Commit, Counts, Extend, Observation, Observe, PolicyRun, S2TError, StepRecord
from select_to_think.triggers.base import Trigger, TriggerKind
from select_to_think.triggers.table import TRIGGERS


@dataclass(slots=True)
class Generate(Extend):
    """Append `tokens`, and go on with the most probable token; `observe` is what every step shows.

    Without `tokens`, what is under way is asked for its next steps.
    """

    max_new_tokens: int = 1
    stop_ids: frozenset[int] = frozenset()
    trigger: str | None = None  # pause where it fires; these hold where decoding begins
    threshold: float = 0.0
    first: int = 0  # step from which it may fire


@dataclass(frozen=True, slots=True)
class Piece:
    """The next P steps, at least one. If `paused`, the trigger fired at the last one, where nothing is written."""

    tokens: tuple[int, ...]  # (P,), or (P - 1,) if paused
    seen: Observation  # (P, top_k)
    paused: bool = False
    statistic: float | None = None  # of the trigger, where it fired


@dataclass(frozen=True)
class Ahead(Policy):
    """Let the engine go on alone as far as it may, and select where it pauses; without `select` it never does."""

    limits: Limits
    select: Select | None = None

    @property
    def trigger(self) -> Trigger | None:
        """What the engine pauses at."""
        return None if self.select is None else self.select.trigger

    def about(self, task: Task) -> Self:
        """This policy for an answer that may have begun."""
        return replace(self, select=self.select and self.select.about(task))

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode; `seed` is not used."""
        answer, select = Answer(self.limits), self.select
        fresh: Sequence[int] = prompt
        unseen = list(prompt)  # by the models that follow
        while answer.room:
            piece: Piece = yield self.request(fresh, answer)
            fresh = ()
            if steps := self.steps(piece, answer):
                unseen += [step.token for step in steps]
                yield Commit(steps)
            if not (piece.paused and select and answer.room):
                continue
            for model in select.selector.follows:
                yield Extend(model, unseen)
            triggered = select.triggered(piece.seen.line(len(piece.tokens)), last=True)
            choice = yield from select.selector.choose(triggered)
            paused = self.limits.greedy(piece.seen, len(piece.tokens), statistic=piece.statistic)
            step, _ = chosen(paused, triggered, choice)
            yield answer.add(step)
            fresh, unseen = (step.token,), [step.token]
        return select.finish(answer) if select else answer.finish(Counts())

    def request(self, fresh: Sequence[int], answer: Answer) -> Generate:
        """Go on behind `fresh`."""
        limits, select = self.limits, self.select
        top_k = max(1, limits.alternatives, select.candidates if select else 0)
        asked = Generate("slm", fresh, Observe(top_k), answer.room, limits.stop_ids)
        if select is None:
            return asked
        trigger, begun = select.trigger, select.begun + len(answer.steps)
        first = max(0, trigger.warm_up_steps - begun)
        return replace(asked, trigger=trigger.kind.name, threshold=trigger.threshold, first=first)

    def steps(self, piece: Piece, answer: Answer) -> list[StepRecord]:
        """The written steps of a piece, as far as the answer goes."""
        steps = []
        for place in range(len(piece.tokens)):
            if answer.room:
                steps.append(self.limits.greedy(piece.seen, place))
                answer.add(steps[-1])
        return steps


def ahead(policy: Policy) -> Ahead:
    """The form of a policy that leaves decoding to an engine.

    Raises:
        S2TError: it cannot, with the reason.
    """
    if isinstance(policy, Greedy) and policy.model == "slm" and not policy.limits.alternative_ids:
        return Ahead(policy.limits)
    if type(policy) is not Select:
        raise S2TError(f"{type(policy).__name__} asks for more than an engine that decodes alone tells")
    if isinstance(policy.selector, ScorerSelector):
        if policy.selector.score == "adapted":
            raise S2TError(
                "the adapted score reads log-probabilities under the adapter: take an anchored or bins scorer"
            )
        policy = replace(policy, selector=replace(policy.selector, sparing=True))
    return Ahead(policy.limits, policy)


def require_watchable(kind: TriggerKind) -> None:
    """Raise S2TError for a trigger that needs more than the logits of a step."""
    if kind.statistic is None or kind.needs_llm or kind.hidden:
        choices = ", ".join(name for name, each in TRIGGERS.items() if each.statistic and not each.needs_llm)
        raise S2TError(
            f"the {kind.name} trigger needs more than the logits that an engine's sampler is shown: choose {choices}"
        )
