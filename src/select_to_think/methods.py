"""From a method's name to its policy and to the models that this policy asks: the only place that knows all methods.

Non-goals: loading (the session does it, when something is first needed) and running (`engine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from select_to_think.config import DecodeConfig, MentorConfig, SelectConfig
from select_to_think.contexts.protocol import Backend
from select_to_think.contexts.transformers_backend import TransformersBackend
from select_to_think.models.scorer import Scorer
from select_to_think.models.trigger_head import load_trigger_head
from select_to_think.models.verifier import load_verifier
from select_to_think.models.verifier_prompt import VerifierPrompt
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.policies.base import Limits, Policy
from select_to_think.policies.block_verified import BlockVerified
from select_to_think.policies.greedy import Greedy
from select_to_think.policies.majority import MajorityVote
from select_to_think.policies.mentor import Mentor
from select_to_think.policies.sample import Sample
from select_to_think.policies.select import Select
from select_to_think.policies.table import MENTOR, NEEDS_LLM, check_trigger, default_trigger, parse_method
from select_to_think.selectors.llm import LLMSelector
from select_to_think.selectors.scorer import ScorerSelector
from select_to_think.structures import S2TError
from select_to_think.triggers.base import Trigger
from select_to_think.triggers.entropy import EntropyTrigger
from select_to_think.triggers.kl import SUPPORT, KLTrigger
from select_to_think.triggers.learned import LearnedTrigger
from select_to_think.triggers.margin import MarginTrigger
from select_to_think.triggers.random import RandomTrigger
from select_to_think.verifiers.base import Verifier
from select_to_think.verifiers.coin import CoinVerifier
from select_to_think.verifiers.free import FreeVerifier
from select_to_think.verifiers.mlp import MLPVerifier

if TYPE_CHECKING:
    from select_to_think.session import Session


def build_trigger(session: Session, name: str, budget: float, coupled: Scorer | None = None) -> Trigger:
    """A trigger that fires on about a fraction `budget` of the steps that the SLM proposes, or with a `coupled` scorer
    the SLM with its adapter on.

    Raises:
        S2TError: there are no thresholds for this trigger and model.
    """
    if name == "random":
        return RandomTrigger(1 - budget)
    if name == "learned":
        if coupled is not None:
            raise S2TError(
                "the learned trigger reads hidden states of the base SLM, and a coupled scorer's adapter changes them: "
                "choose entropy or margin, or a scorer of another mode"
            )
        path = session.artefact(session.config.trigger_head, "trigger", "s2t train trigger")
        head = load_trigger_head(path, session.slm)
        return LearnedTrigger(head.threshold(budget), head)
    threshold = session.thresholds(coupled).threshold(name, budget)
    if name == "kl":
        if session.calibration.llm_fingerprint != session.llm.fingerprint:
            raise S2TError(
                f"the KL trigger was calibrated with another LLM than {session.llm.name}: run `s2t calibrate` again"
            )
        return KLTrigger(threshold, min(SUPPORT, session.ordinary_vocabulary))
    return EntropyTrigger(threshold) if name == "entropy" else MarginTrigger(threshold)


def build_verifier(session: Session, kind: str, config: MentorConfig) -> Verifier:
    """The verifier of a mentor method."""
    if kind == "mentor-coin":
        return CoinVerifier()
    prompt = VerifierPrompt(session.slm, config.verifier_template, config.verifier_opening)
    if kind == "mentor-free":
        return FreeVerifier(prompt, config.order)
    head = load_verifier(session.verifier_folder, session.slm, (prompt.template, prompt.opening))
    return MLPVerifier(prompt, config.order, head)


def build_policy(
    session: Session,
    method: str,
    decode: DecodeConfig,
    select: SelectConfig,
    mentor: MentorConfig,
    stop: Sequence[str] = (),
) -> Policy:
    """The policy of a method; its answers end with the first of the strings `stop` as well.

    Raises:
        S2TError: unknown names, or settings that this pair cannot serve.
    """
    kind, n = parse_method(method)
    stops = (lambda tokens: session.text(tokens) != session.text(tokens, stop)) if stop else None
    limits = Limits(session.stop_ids, decode.max_new_tokens, stops)
    sample = Sample(limits, decode.temperature, decode.top_p, decode.top_k, decode.min_p)
    match kind:
        case "greedy" | "distill":
            return Greedy(limits)
        case "llm":
            return Greedy(limits, model="llm")
        case "sample":
            return sample
        case "maj":
            return MajorityVote(sample, n, session.text, decode.early_stop)
        case kind if kind in MENTOR:
            verifier = build_verifier(session, kind, mentor)
            return Mentor(
                limits,
                session.words,
                verifier,
                mentor.consult_rate,
                mentor.segment_tokens,
                guesses=session.shares_vocabulary,
            )
    if select.candidates > session.ordinary_vocabulary:
        size = session.ordinary_vocabulary
        raise S2TError(f"{select.candidates} candidates asked of a vocabulary of {size} tokens: lower --candidates")
    shared = kind == "s2t-local" or session.shares_vocabulary
    name = select.trigger or default_trigger(kind, shared)
    check_trigger(kind, name, shared)
    trigger = build_trigger(session, name, select.trigger_budget, session.coupled(kind, select))
    if kind == "s2t-local":
        scorer, _ = session.scorer(select)
        model = "scorer" if scorer.mode == "proposer" else "slm"
        local = ScorerSelector(model, scorer.score == "anchored", scorer.score_temperature, scorer.anchor)
        return Select(limits, trigger, local, select.candidates)
    form = BlockVerified if trigger.needs_llm and select.block_verified else Select
    return form(limits, trigger, LLMSelector(takeover=kind == "takeover"), select.candidates)


def build_backends(session: Session, kind: str, select: SelectConfig, stack: ExitStack) -> dict[str, Backend]:
    """The models that a method asks, by the names that its policy uses; `stack` undoes what they need."""
    forbidden = sorted(reserved_ids(session.slm))
    if kind == "distill":
        stack.enter_context(session.distilled.folded_in())
    if kind != "s2t-local":
        backends: dict[str, Backend] = {"slm": TransformersBackend(session.slm.model, forbidden=forbidden)}
        if kind in NEEDS_LLM:
            backends["llm"] = TransformersBackend(session.llm.model, forbidden=sorted(reserved_ids(session.llm)))
        if kind in MENTOR:
            backends["verifier"] = TransformersBackend(session.slm.model, forbidden=forbidden)
        return backends
    scorer, switch = session.scorer(select)
    rows = scorer.bin_rows
    if scorer.mode == "coupled":
        stack.enter_context(switch.folded_in())
        return {"slm": TransformersBackend(session.slm.model, forbidden=forbidden, bin_rows=rows)}
    stack.callback(switch.set_active, False)
    if scorer.mode == "activated":
        leaves = TransformersBackend(
            session.slm.model, forbidden=forbidden, switch=switch, adapted="leaves", bin_rows=rows
        )
        return {"slm": leaves}
    base = TransformersBackend(session.slm.model, forbidden=forbidden, switch=switch)
    adapted = TransformersBackend(
        session.slm.model, forbidden=forbidden, switch=switch, adapted="always", bin_rows=rows
    )
    return {"slm": base, "scorer": adapted}
