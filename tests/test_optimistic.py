"""The law of going on while the LLM selects: whatever is asked ahead, and whenever it is answered, the tokens are those
of waiting (`policies/select.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drive import SMALL, backends_of
from select_to_think.contexts.protocol import Ask
from select_to_think.contexts.transformers_backend import TransformersBackend
from select_to_think.policies.base import Limits
from select_to_think.policies.optimistic import QUESTIONS, Optimistic
from select_to_think.policies.select import Select
from select_to_think.runs import Failed, Finished, Run
from select_to_think.runtime import Runtime
from select_to_think.selectors.llm import LLMSelector
from select_to_think.structures import Branch, Generation, ModelUnavailable, Role
from select_to_think.triggers.random import coin
from select_to_think.triggers.table import TRIGGERS
from tiny import tiny_model

PROMPTS = ([5, 9, 3], [7], [11, 4, 4, 8, 20, 31], [6, 6])
LIMITS = Limits(frozenset({2}), 24)
ROLES = {"slm": Role("slm"), "llm": Role("llm")}
WAYS: dict[str, tuple[Any, Any, int]] = {
    "s2t-entropy": (TRIGGERS["entropy"].at(3.5), LLMSelector(), 4),
    "s2t-coin": (coin(0.7), LLMSelector(), 3),
    "takeover-margin": (TRIGGERS["margin"].at(0.7), LLMSelector(True), 5),
    "goes on without": (coin(0.8), LLMSelector(goes_on=True), 3),
}


class Far:
    """A model whose answers are told later, and overtake each other; it is out of reach behind some prefixes."""

    remote = True

    def __init__(self, backend: TransformersBackend, seed: int | None, fails: bool) -> None:
        self.backend, self.fails = backend, fails
        self.random = None if seed is None else Random(seed)
        self.told: dict[Ask, Any] = {}
        self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    @property
    def waiting(self) -> Sequence[Ask]:
        return list(self.told)

    def submit(self, ask: Ask) -> None:
        leaf = ask.request.continuations[0] if isinstance(ask.request, Branch) else ask.request.tokens
        prefix = [*ask.context.tokens, *leaf]
        self.backend.submit(ask)
        while ask in self.backend.waiting:
            self.backend.step()
        self.told[ask] = ModelUnavailable("away") if self.fails and sum(prefix) % 3 == 0 else ask.answer
        self.most = max(self.most, len(self.told))

    def step(self, patience_s: float = 0.0) -> list[Ask]:
        arrived = [ask for ask in self.told if self.random is None or self.random.random() < 0.15]
        for ask in arrived:
            ask.answer = self.told.pop(ask)
        return arrived

    def close(self, context: Any) -> None:
        self.told = {ask: answer for ask, answer in self.told.items() if ask.context is not context}
        self.backend.close(context)


@cache
def models() -> dict[str, TransformersBackend]:
    return backends_of({"slm": tiny_model("qwen2"), "llm": tiny_model("qwen2", seed=1, layers=3)})


def answered(way: str, form: type[Select], case: int, seed: int | None) -> tuple[Generation | None, Far]:
    """What a policy writes with the LLM far away; None where it ended for want of it."""
    trigger, selector, candidates = WAYS[way]
    far = Far(models()["llm"], seed, fails=selector.goes_on)
    runtime = Runtime({"slm": models()["slm"], "llm": far}, SMALL)
    policy = form(LIMITS, trigger, selector, candidates)
    runtime.add(0, Run(policy.run(PROMPTS[case], f"seed/{case}"), ROLES, 192))
    while runtime.busy:
        for event in runtime.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Finished):
                return event.result, far
    return None, far


@cache
def waited(way: str, case: int) -> Generation:
    found, far = answered(way, Select, case, None)
    assert found is not None and far.most <= 1
    return found


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(way=st.sampled_from(sorted(WAYS)), case=st.integers(0, len(PROMPTS) - 1), seed=st.integers(0, 999))
def test_asking_ahead_changes_no_step(way: str, case: int, seed: int) -> None:
    found, far = answered(way, Optimistic, case, seed)
    assert found is not None and far.most <= QUESTIONS
    expected = waited(way, case)
    assert found.tokens == expected.tokens and found.finish_reason == expected.finish_reason
    for mine, other in zip(found.steps, expected.steps, strict=True):
        assert (mine.token, mine.fired, mine.candidates, mine.chooser, mine.llm_failed, mine.llm_top_token) == (
            other.token, other.fired, other.candidates, other.chooser, other.llm_failed, other.llm_top_token
        )  # fmt: skip
        assert mine.statistic == pytest.approx(other.statistic, abs=1e-5)
    failed = sum(step.llm_failed for step in found.steps)
    assert found.counts.llm_failures == expected.counts.llm_failures == failed


def test_questions_are_asked_ahead_and_those_in_vain_are_counted() -> None:
    asked = discarded = most = 0
    for seed in range(3):
        found, far = answered("s2t-coin", Optimistic, 1, seed)
        assert found is not None
        fired = sum(step.fired for step in found.steps)
        assert found.counts.llm_questions_discarded >= 0
        asked += fired + found.counts.llm_questions_discarded
        discarded += found.counts.llm_questions_discarded
        most = max(most, far.most)
    assert most == QUESTIONS and 0 < discarded < asked
    assert waited("s2t-coin", 1).counts.llm_questions_discarded == 0
    assert waited("s2t-coin", 1).counts.slm_tokens_discarded == 0
