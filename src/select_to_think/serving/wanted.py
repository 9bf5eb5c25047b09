"""What clients want of an engine, in a form that travels between processes, and the runs that it becomes.

Non-goals: running them (`engine.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from select_to_think.artefacts import Question
from select_to_think.config import MethodSettings
from select_to_think.methods import Decoder, find_method
from select_to_think.policies.score import score_output
from select_to_think.runs import Run
from select_to_think.serving.errors import RequestError
from select_to_think.session import Session
from select_to_think.structures import Role

REMEMBERED = 256  # methods made ready, each with its settings


@dataclass(frozen=True)
class Answering:
    """An answer to `question`, whose token ids are `prompt`."""

    method: str
    settings: MethodSettings
    question: Question
    prompt: Sequence[int]


@dataclass(frozen=True)
class Scoring:
    """The log-probabilities of a prompt: of the SLM as the method has it, or of the LLM where there is only that."""

    method: str
    settings: MethodSettings
    prompt: Sequence[int]  # at least two tokens
    alternatives: int


Wanted = Answering | Scoring


@dataclass(frozen=True)
class Prepared:
    """What is to be told of a method made ready: its trigger's name and threshold, if it has one."""

    trigger: str | None
    threshold: float | None


class Workshop:
    """Makes runs of what is wanted, by a session's methods."""

    def __init__(self, session: Session) -> None:
        """Methods are made ready once for all requests with the same settings, whatever their seeds."""
        self.session, self.known = session, lru_cache(REMEMBERED)(session.decoder)

    def decoder(self, method: str, settings: MethodSettings) -> Decoder:
        """A method made ready. Raises S2TError for settings that this pair cannot serve."""
        return self.known(method, unseeded(settings))

    def prepared(self, method: str, settings: MethodSettings) -> Prepared:
        """What is to be told of it. Raises S2TError as `decoder` does."""
        trigger = getattr(self.decoder(method, settings).policy, "trigger", None)
        return Prepared(trigger and trigger.kind.name, trigger and trigger.threshold)

    def runs(self, wanted: Sequence[Wanted]) -> list[tuple[str, Run]]:
        """(method, run) of each. Raises as `run` does."""
        return [(each.method, self.run(each)) for each in wanted]

    def run(self, wanted: Wanted) -> Run:
        """The run of what is wanted.

        Raises:
            RequestError: log-probabilities of a model with other tokens.
            S2TError: settings that this pair cannot serve.
        """
        decoder = self.decoder(wanted.method, wanted.settings)
        if isinstance(wanted, Answering):
            method = find_method(wanted.method)
            return self.session.answering(method, decoder, wanted.question, wanted.prompt, wanted.settings)
        role = decoder.roles.get("slm") or decoder.roles["llm"]
        if role == Role("llm") and not self.session.shares_vocabulary:
            raise RequestError("an LLM with another vocabulary than the SLM scores no prompts", param="logprobs")
        policy = score_output(wanted.prompt[:1], wanted.prompt[1:], wanted.alternatives)
        return self.session.run(policy, {"slm": role}, len(wanted.prompt))


def unseeded(settings: MethodSettings) -> MethodSettings:
    """Settings that are the same for all seeds."""
    return replace(settings, decode=replace(settings.decode, seed=0))
