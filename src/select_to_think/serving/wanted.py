"""What clients want of an engine and what they hear of it, in forms that travel, and the runs that are made of it.

Non-goals: running them (`engine.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from select_to_think.artefacts import Question
from select_to_think.config import MentorConfig, MethodSettings, SelectConfig
from select_to_think.methods import Decoder, find_method
from select_to_think.policies.score import score_output
from select_to_think.runs import Run
from select_to_think.serving.errors import RequestError
from select_to_think.session import Session
from select_to_think.structures import Counts, FinishReason, Generation, Role, StepRecord

REMEMBERED = 256  # methods made ready, each with its settings


@dataclass(frozen=True)
class Wanted:
    """An answer to `question`, whose token ids are `prompt`; or, without one, the log-probabilities of the prompt (at
    least two tokens): of the SLM as the method has it, or of the LLM where there is only that."""

    method: str
    settings: MethodSettings
    prompt: Sequence[int]
    question: Question | None = None
    detailed: bool = True  # steps are told as they were decided, not their tokens alone
    streamed: bool = False  # they are told as they become final, not all at the end


@dataclass(frozen=True)
class Prepared:
    """What is to be told of a method made ready: its trigger's name and threshold, if it has one."""

    trigger: str | None
    threshold: float | None


class Written(NamedTuple):
    """Final tokens of an answer; `steps`: how they were decided, if that is told."""

    tokens: tuple[int, ...]
    steps: tuple[StepRecord, ...]


@dataclass(frozen=True)
class Ended:
    """How an answer ended, and what it was."""

    finish_reason: FinishReason
    tokens: int = 0
    triggered: int = 0
    flips: int = 0
    votes: tuple[str, ...] = ()
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def of(cls, found: Generation) -> Ended:
        """The end of a finished sequence."""
        reason, tokens = found.finish_reason, len(found.tokens)
        return cls(reason, tokens, found.fired_count, found.flip_count, found.votes, found.counts)


News = Written | Ended | RequestError  # of one run; the last two are its end


@dataclass(eq=False)
class Job:
    """One run, on its way through the engine."""

    wanted: Wanted
    run: Run
    client: int
    index: int  # among those of its client
    arrived: float = field(default_factory=time.monotonic)  # seconds, as `answered`
    answered: float | None = None  # when its first token was written


class Workshop:
    """Makes runs of what is wanted, by a session's methods."""

    def __init__(self, session: Session) -> None:
        """Methods are made ready once for all requests with the same settings, whatever their seeds."""
        self.session, self.known = session, lru_cache(REMEMBERED)(session.decoder)

    def decoder(self, method: str, settings: MethodSettings) -> Decoder:
        """A method made ready. Raises S2TError for settings that this pair cannot serve."""
        return self.known(method, replace(settings, decode=replace(settings.decode, seed=0)))

    def prepared(self, method: str, select: SelectConfig, mentor: MentorConfig) -> Prepared:
        """What is to be told of it. Raises S2TError as `decoder` does."""
        decoder = self.decoder(method, MethodSettings(select=select, mentor=mentor))
        trigger = getattr(decoder.policy, "trigger", None)
        return Prepared(trigger and trigger.kind.name, trigger and trigger.threshold)

    def run(self, wanted: Wanted) -> Run:
        """The run of what is wanted.

        Raises:
            RequestError: log-probabilities of a model with other tokens.
            S2TError: settings that this pair cannot serve.
        """
        decoder = self.decoder(wanted.method, wanted.settings)
        if wanted.question is not None:
            method = find_method(wanted.method)
            return self.session.answering(method, decoder, wanted.question, wanted.prompt, wanted.settings)
        role = decoder.roles.get("slm") or decoder.roles["llm"]
        if role == Role("llm") and not self.session.shares_vocabulary:
            raise RequestError("an LLM with another vocabulary than the SLM scores no prompts", param="logprobs")
        policy = score_output(wanted.prompt[:1], wanted.prompt[1:], max(1, wanted.settings.alternatives))
        return self.session.run(policy, {"slm": role}, len(wanted.prompt))
