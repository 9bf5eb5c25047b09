"""An answer as it is written: what each batch of final steps adds to it, whole characters and no stop strings.

Non-goals: the forms in which it is sent (`forms.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from select_to_think.evaluation.grading import extract
from select_to_think.evaluation.tracing import step_trace
from select_to_think.files import finite
from select_to_think.models.detokenizer import Detokenizer
from select_to_think.serving.jobs import Order
from select_to_think.serving.wanted import Ended, Written
from select_to_think.session import Session
from select_to_think.structures import Counts, StepRecord


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its log-probability, and the most probable ones in its place."""

    token: int
    logprob: float | None  # nats; None for the first token of a prompt
    alternatives: tuple[tuple[int, float], ...] = ()
    offset: int = 0  # where its text begins


@dataclass
class Delta:
    """What is new of an answer."""

    text: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ends: bool = False  # nothing comes behind it

    @property
    def empty(self) -> bool:
        """Whether there is nothing to be told."""
        return not (self.text or self.steps or self.logprobs)


class Writing:
    """One answer. The texts of its deltas together are the text of the finished generation."""

    def __init__(self, session: Session, order: Order, *, trace: bool, alternatives: int | None) -> None:
        """Nothing is written yet. `alternatives`: tokens told beside each chosen one; None: not even that one."""
        self.session, self.order, self.trace, self.alternatives = session, order, trace, alternatives
        self.offset = len(order.echo)  # characters so far, those behind a stop string included
        self.text, self.stop = Detokenizer(session.slm.tokenizer), order.settings.stop
        for token in order.begun:  # one by one: the last may hold a part of a character
            self.text.push(token)
        self.held = ""  # text that may be the beginning of a stop string
        self.stopped = False
        self.steps = 0
        self.ended = None if order.answering else Ended(order.unwritten)

    def echo(self, scored: Sequence[StepRecord]) -> Delta:
        """The prompt, with the log-probabilities of its tokens behind the first, as far as they were scored."""
        delta, text, offset = Delta(self.order.echo), Detokenizer(self.session.slm.tokenizer), 0
        if self.alternatives is not None:
            first = StepRecord(self.order.prompt[0], 0.0)
            for step in (first, *scored):
                delta.logprobs.append(self.logprob(step, offset))
                offset += len(text.push(step.token))
            delta.logprobs[0] = replace(delta.logprobs[0], logprob=None, alternatives=())
        return delta

    def add(self, written: Written) -> Delta:
        """Final tokens."""
        if not written.steps:
            return Delta(self.shown(self.text.push(*written.tokens)))
        delta = Delta()
        for step in written.steps:
            added = self.text.push(step.token)
            delta.text += self.shown(added)
            if self.trace:
                delta.steps.append(step_trace(self.session.text, step, self.steps, added))
            if self.alternatives is not None:
                delta.logprobs.append(self.logprob(step, self.offset))
            self.offset += len(added)
            self.steps += 1
        return delta

    def logprob(self, step: StepRecord, offset: int) -> TokenLogprob:
        """What is told of the probabilities of a step whose text begins at `offset`."""
        told = None if self.order.settings.alternative_ids else self.alternatives
        pairs = zip(step.alternatives[:told], step.alternative_logprobs, strict=False)
        return TokenLogprob(step.token, step.logprob, tuple(pairs), offset)

    def finish(self, ended: Ended) -> Delta:
        """The end."""
        self.ended = ended
        text = self.shown(self.text.flush()) + ("" if self.stopped else self.held)
        self.held = ""
        return Delta(text, ends=True)

    def shown(self, added: str) -> str:
        """What can be told now that `added` is there: nothing from a stop string on, or from what may become one."""
        if self.stopped or not self.stop:
            return "" if self.stopped else added
        self.held += added
        found = [at for at in map(self.held.find, self.stop) if at >= 0]
        self.stopped = bool(found)
        end = min(found) if found else len(self.held) - self.doubtful()
        text, self.held = self.held[:end], self.held[end:]
        return text

    def doubtful(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        longest = max(map(len, self.stop), default=1) - 1
        sizes = range(min(longest, len(self.held)), 0, -1)
        return next((n for n in sizes if any(stop.startswith(self.held[-n:]) for stop in self.stop)), 0)

    @property
    def finish_reason(self) -> str | None:
        """Why it ended, once it has."""
        return None if self.ended is None else self.ended.finish_reason

    @property
    def summary(self) -> dict[str, Any]:
        """What the trace says of the whole answer."""
        assert self.ended is not None
        written = self.session.text(self.text.tokens, self.stop, len(self.order.begun))
        return {
            "method": self.order.method.name,
            "trigger": self.order.prepared.trigger,
            "threshold": finite(self.order.prepared.threshold),
            "answer": extract(written, "text").extracted,
            "seed": self.order.settings.decode.seed,
            "votes": list(self.ended.votes),
            "counts": asdict(self.ended.counts),
        }


def usage(writings: Sequence[Writing], scored: Sequence[Ended], n: int) -> dict[str, Any]:
    """What a request cost. Of `n` answers to one prompt, the prompt counts once."""
    ended = [writing.ended for writing in writings if writing.ended is not None]
    spent = Counts()
    for each in (*scored, *ended):
        spent.add(each.counts)
    read, written = sum(len(writing.order.prompt) for writing in writings[::n]), sum(each.tokens for each in ended)
    cached = max(spent.slm_tokens_cached, spent.llm_tokens_cached)
    triggered, flips = sum(each.triggered for each in ended), sum(each.flips for each in ended)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": min(read, cached)},
        "s2t": {"triggered": triggered, "flips": flips, **asdict(spent)},
    }
