"""The table of methods: one record each says all that anybody needs to know of it.

A new method is a policy and a record here (or `register(record)` from anywhere). Flags, help, checks, what is loaded,
evaluation and harness read the record.

Non-goals: loading (the session does it, when something is first needed) and running (`runtime`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from select_to_think.config import MentorConfig, MethodSettings, SelectConfig
from select_to_think.models.detokenizer import StopStrings
from select_to_think.models.verifier_prompt import VerifierPrompt
from select_to_think.policies.base import Limits, Policy
from select_to_think.policies.block_verified import BlockVerified
from select_to_think.policies.greedy import Greedy
from select_to_think.policies.majority import MajorityVote
from select_to_think.policies.mentor import Mentor
from select_to_think.policies.optimistic import Optimistic
from select_to_think.policies.sample import Sample
from select_to_think.policies.select import Select
from select_to_think.selectors.llm import LLMSelector
from select_to_think.selectors.scorer import ScorerSelector
from select_to_think.structures import Role, S2TError
from select_to_think.text import known_name
from select_to_think.triggers.base import Trigger
from select_to_think.triggers.table import TRIGGERS, find_trigger
from select_to_think.verifiers.base import Verifier
from select_to_think.verifiers.coin import CoinVerifier
from select_to_think.verifiers.free import FreeVerifier
from select_to_think.verifiers.mlp import MLPVerifier

if TYPE_CHECKING:
    from select_to_think.models.scorer import Scorer
    from select_to_think.session import Session

SLM, LLM = Role("slm"), Role("llm")


@dataclass(frozen=True)
class Decoder:
    """A method made ready: its policy, and what the policy's names for models stand for."""

    policy: Policy
    roles: Mapping[str, Role]


@dataclass(frozen=True)
class Method:
    """What is to be known of a method."""

    name: str
    help: str
    build: Callable[[Method, Session, MethodSettings], Decoder]
    asks_llm: bool = False
    draws: bool = False  # whether the seed decides its answers, whatever the trigger
    trigger: str | None = None  # the default trigger of a method that has one
    uses: Literal["scorer", "distill", "verifier"] | None = None  # what it needs that was trained
    mentor: bool = False  # whether `MentorConfig` decides its answers
    samples: int = 1  # answers that it draws for each question

    def trigger_name(self, select: SelectConfig, missing: str | None = None) -> str:
        """The trigger that this method uses: the one of the paper where none is named and it works.

        `missing` is what the LLM lacks for a comparison of the two models' distributions, if anything.

        Raises:
            S2TError: it has none, or an unknown one, or one that needs an LLM where there is none that can be compared.
        """
        assert self.trigger is not None
        comparable = self.asks_llm and missing is None
        own_works = comparable or not find_trigger(self.trigger, select.trigger_definition).needs_llm
        named = select.trigger or (self.trigger if own_works else "entropy")
        kind = find_trigger(named, select.trigger_definition)
        if kind.needs_llm and not comparable:
            choices = ", ".join(name for name, other in TRIGGERS.items() if not other.needs_llm)
            if self.asks_llm:
                raise S2TError(f"the {kind.name} trigger needs {missing}: choose {choices}")
            raise S2TError(f"{self.name} runs without an LLM, which the {kind.name} trigger needs: choose {choices}")
        return kind.name


def limits(session: Session, settings: MethodSettings) -> Limits:
    """When answers end."""
    stop, tokenizer = settings.stop, session.slm.tokenizer
    watch = (lambda: StopStrings(tokenizer, stop)) if stop else None
    told = settings.alternatives, settings.alternative_ids
    return Limits(session.stop_ids, settings.decode.max_new_tokens, watch, *told)


def greedy(method: Method, session: Session, settings: MethodSettings) -> Decoder:
    """The SLM alone."""
    return Decoder(Greedy(limits(session, settings)), {"slm": SLM})


def distilled(method: Method, session: Session, settings: MethodSettings) -> Decoder:
    """The SLM with its distillation adapter."""
    role = Role("slm", session.adapter(session.distill_folder))
    return Decoder(Greedy(limits(session, settings)), {"slm": role})


def llm_alone(method: Method, session: Session, settings: MethodSettings) -> Decoder:
    """The LLM alone."""
    if not session.shares_vocabulary:  # then it says its choice, and no more
        settings = replace(settings, alternatives=0)
    return Decoder(Greedy(limits(session, settings), model="llm"), {"llm": LLM})


def sampled(method: Method, session: Session, settings: MethodSettings) -> Decoder:
    """One draw, or a vote over several."""
    decode = settings.decode
    sample = Sample(limits(session, settings), decode.temperature, decode.top_p, decode.top_k, decode.min_p)
    policy = sample if method.samples == 1 else MajorityVote(sample, method.samples, decode.early_stop)
    return Decoder(policy, {"slm": SLM})


def trigger_of(method: Method, session: Session, settings: MethodSettings, coupled: Scorer | None = None) -> Trigger:
    """The trigger of a method, and a check of what it selects among."""
    select = settings.select
    if select.candidates > session.ordinary_vocabulary:
        size = session.ordinary_vocabulary
        raise S2TError(f"{select.candidates} candidates asked of a vocabulary of {size} tokens: lower --candidates")
    name = method.trigger_name(select, session.incomparable_llm if method.asks_llm else None)
    return session.trigger(name, select.trigger_budget, coupled, select.warm_up_steps)


def with_llm(takeover: bool) -> Callable[[Method, Session, MethodSettings], Decoder]:
    """`takeover` and `s2t`."""

    def build(method: Method, session: Session, settings: MethodSettings) -> Decoder:
        select = settings.select
        if not takeover and not session.shares_vocabulary and session.inexact_llm:
            raise S2TError(f"s2t over two vocabularies needs {session.inexact_llm}; or choose takeover or mentor-free")
        trigger = trigger_of(method, session, settings)
        form = Optimistic if session.guesses and not trigger.kind.needs_llm else Select
        if trigger.kind.needs_llm and select.block_verified:
            form = BlockVerified
        goes_on = settings.decode.on_llm_failure == "continue"
        selector = LLMSelector(takeover, goes_on)
        policy = form(limits(session, settings), trigger, selector, select.candidates, goes_on)
        return Decoder(policy, {"slm": SLM, "llm": LLM})

    return build


def local(method: Method, session: Session, settings: MethodSettings) -> Decoder:
    """`s2t-local`, in the mode of its scorer."""
    method.trigger_name(settings.select)  # wrong names are told before a scorer is missed
    ends = limits(session, settings)
    scorer = session.scorer(settings.select)
    coupled = session.coupled(method.name, settings.select)
    trigger = trigger_of(method, session, settings, coupled)
    adapted = session.adapted(scorer)
    selector = ScorerSelector(scorer.mode, scorer.score, scorer.score_temperature, scorer.anchor)
    policy = Select(ends, trigger, selector, settings.select.candidates)
    if coupled is not None:
        return Decoder(policy, {"slm": adapted})
    return Decoder(policy, {"slm": SLM, "scorer": adapted})


def mentored(
    judge: Callable[[Session, MentorConfig], Verifier],
) -> Callable[[Method, Session, MethodSettings], Decoder]:
    """MentorCollab with a verifier."""

    def build(method: Method, session: Session, settings: MethodSettings) -> Decoder:
        mentor = settings.mentor
        policy = Mentor(
            limits(session, settings),
            session.published_words if mentor.word_form == "paper" else session.words,
            judge(session, mentor),
            mentor.consult_rate,
            mentor.segment_tokens,
            goes_on=settings.decode.on_llm_failure == "continue",
            guesses=session.shares_vocabulary,
        )
        return Decoder(policy, {"slm": SLM, "llm": LLM, "verifier": SLM})

    return build


def prompt_of(session: Session, mentor: MentorConfig) -> VerifierPrompt:
    """What the SLM is asked as verifier."""
    return VerifierPrompt(session.slm, mentor.verifier_template, mentor.verifier_opening, mentor.verifier_place)


def free(session: Session, mentor: MentorConfig) -> Verifier:
    """The SLM's own letters."""
    return FreeVerifier(prompt_of(session, mentor), mentor.order, mentor.verifier_rule)


def trained(session: Session, mentor: MentorConfig) -> Verifier:
    """A network on the SLM's hidden state."""
    from select_to_think.models.layers import apply_layers
    from select_to_think.models.verifier import load_verifier

    prompt = prompt_of(session, mentor).read_at(mentor.verifier_state)
    layers = load_verifier(session.verifier_folder, session.slm, prompt.wording)
    return MLPVerifier(prompt, mentor.order, partial(apply_layers, layers))


def coin(session: Session, mentor: MentorConfig) -> Verifier:
    """The control."""
    return CoinVerifier()


METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Put a method into the table."""
    METHODS[method.name] = method
    return method


for record in (
    Method("greedy", "the SLM's most probable token at every step", greedy),
    Method("sample", "the SLM, sampled with temperature, top-p, top-k and min-p", sampled, draws=True),
    Method(
        "maj@8",
        "self-consistency: majority vote over N samples of the SLM (any N: maj@4, maj@16 ...)",
        sampled,
        draws=True,
        samples=8,
    ),
    Method("distill", "the SLM, fine-tuned on the LLM by distillation, greedy; no LLM", distilled, uses="distill"),
    Method("llm", "the LLM alone, greedy", llm_alone, asks_llm=True),
    Method(
        "takeover",
        "where the trigger fires, the LLM writes the token",
        with_llm(takeover=True),
        asks_llm=True,
        trigger="kl",
    ),
    Method(
        "s2t",
        "where the trigger fires, the LLM selects among the SLM's top-K",
        with_llm(takeover=False),
        asks_llm=True,
        trigger="kl",
    ),
    Method(
        "s2t-local",
        "where the trigger fires, the SLM's own scorer selects; no LLM",
        local,
        trigger="entropy",
        uses="scorer",
    ),
    Method(
        "mentor-free",
        "where the LLM's next word differs, the SLM judges between two short segments",
        mentored(free),
        asks_llm=True,
        draws=True,
        mentor=True,
    ),
    Method(
        "mentor-mlp",
        "the same, judged by a small network on the SLM's hidden state",
        mentored(trained),
        asks_llm=True,
        draws=True,
        mentor=True,
        uses="verifier",
    ),
    Method(
        "mentor-coin",
        "the same, judged by a coin: the control",
        mentored(coin),
        asks_llm=True,
        draws=True,
        mentor=True,
    ),
):
    register(record)


def find_method(name: str) -> Method:
    """The method of that name; `maj@N` for any N.

    Raises:
        S2TError: an unknown name, with the nearest one.
    """
    if vote := re.fullmatch(r"maj@([1-9][0-9]{0,8})", name):
        return replace(METHODS["maj@8"], name=name, samples=int(vote[1]))
    return METHODS[known_name("method", name, METHODS)]
