"""The public shape of a verifier: two segments go on from one text; which is the better one?

Verifiers that ask the SLM share how they ask: the question grows with the text, so a context of its own ("verifier")
follows it. What two questions in a row have in common stays in that context; the rest is rolled back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Protocol, Self

from select_to_think.config import Order
from select_to_think.models.verifier_prompt import VerifierPrompt
from select_to_think.structures import Branch, Extend, Floats, Observation, Observe, Requests, Truncate, shared_length


@dataclass(frozen=True, slots=True)
class Dispute:
    """Two ways of going on after the output tokens `before`."""

    before: Sequence[int]
    slm: Sequence[int]
    mentor: Sequence[int]

    @property
    def agreed(self) -> int:
        """Tokens in which both begin alike."""
        return shared_length(self.slm, self.mentor)


@dataclass(slots=True)
class Follower:
    """A context whose tokens change at their end."""

    model: str = "verifier"
    held: list[int] = field(default_factory=list)

    def show(self, tokens: Sequence[int]) -> Generator[Requests, Any, None]:
        """Make `tokens` its content."""
        same = shared_length(self.held, tokens)
        if same < len(self.held):
            yield Truncate(self.model, same)
        yield Extend(self.model, tokens[same:])
        self.held[same:] = tokens[same:]


class Verifier(Protocol):
    """Judges disputes of an answer to one question."""

    def about(self, question: str) -> Self:
        """This verifier for answers to `question`."""
        ...

    def room(self, segment_tokens: int) -> int:
        """Tokens of its context beyond those of the answer, for segments of so many."""
        ...

    def margin(self, dispute: Dispute, context: Follower, random: Random) -> Generator[Requests, Any, float]:
        """Above 0 if the mentor's segment is the better one. `context` and `random` are the row's own."""
        ...


@dataclass(frozen=True)
class Asking(ABC):
    """Shows the SLM the SLM's segment as option A and the mentor's as B: the order of MentorCollab (arXiv 2602.05307),
    whose question and rule are settings (docs/methods.md, "What differs from the published code").

    `debiased` asks for the other order too, in the same forward, and takes the mean: a liking for a letter
    cancels out.
    """

    prompt: VerifierPrompt
    order: Order

    def about(self, question: str) -> Self:
        """This verifier for answers to `question`."""
        return replace(self, prompt=self.prompt.about(question))

    def room(self, segment_tokens: int) -> int:
        """The prompt around the answer, and both segments in both orders."""
        return len(self.prompt.ids((), (), ())) + 4 * segment_tokens

    def margin(self, dispute: Dispute, context: Follower, random: Random) -> Generator[Requests, Any, float]:
        """One branch of one or two prompts; 0 if both orders say the same, or if the SLM cannot read so much."""
        shown = (dispute.slm, dispute.mentor), (dispute.mentor, dispute.slm)
        prompts = [self.prompt.ids(dispute.before, *pair) for pair in shown]
        if prompts[0] == prompts[1] or max(map(len, prompts)) > self.prompt.longest:
            return 0.0
        same = shared_length(*prompts)
        asked = prompts[:1] if self.order == "ab" else prompts
        yield from context.show(prompts[0][:same])
        seen = yield Branch(context.model, [ids[same:] for ids in asked], self.observe(len(asked)))
        margins = self.read(seen)
        return float(margins[0]) if self.order == "ab" else float(margins[0] - margins[1]) / 2

    @abstractmethod
    def observe(self, prompts: int) -> Observe:
        """What to look at behind each of the prompts."""

    @abstractmethod
    def read(self, seen: Observation) -> Floats:
        """(prompts,) log-odds that option B is the better one."""
