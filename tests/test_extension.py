"""A method and a trigger of somebody else's, registered from outside the package."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

from select_to_think import methods
from select_to_think.config import DecodeConfig, EvalSettings, SelectConfig
from select_to_think.evaluation.calibrate import calibrate
from select_to_think.evaluation.runner import evaluate
from select_to_think.methods import METHODS, Decoder, Method
from select_to_think.policies.greedy import Greedy
from select_to_think.session import Session
from select_to_think.structures import S2TError
from select_to_think.triggers.base import TriggerKind
from select_to_think.triggers.table import TRIGGERS
from test_evaluation_session import items
from tiny import tiny_loaded

DECODE = DecodeConfig(max_new_tokens=12)
TOY = TriggerKind("toy", "the best token is improbable", lambda slm, llm: np.asarray(-slm.top_logprobs[:, 0]), 1)


def short(method, session, settings) -> Decoder:
    ends = replace(methods.limits(session, settings), max_new_tokens=3)
    return Decoder(Greedy(ends), {"slm": methods.SLM})


@patch.dict(METHODS)  # what is registered is gone afterwards
@patch.dict(TRIGGERS, {"toy": TOY})
def test_a_toy_method_and_a_toy_trigger_run_everywhere() -> None:
    methods.register(Method("short", "three tokens", short))
    session = Session(slm=tiny_loaded(0), llm=tiny_loaded(1, 3))
    session.calibration = calibrate(session, items(0, 8, "calibration"), decode=DECODE)
    assert "toy" in session.calibration.quantiles
    questions = ["w5 w6 w7", "w9", "w8 w30"]
    greedy = session.generate(questions, "greedy", DECODE)
    assert [g.tokens for g in session.generate(questions, "short", DECODE)] == [g.tokens[:3] for g in greedy]
    select = SelectConfig(trigger="toy", trigger_budget=0.4)
    steps = [step for answer in session.generate(questions, "s2t", DECODE, select) for step in answer.steps]
    threshold = session.trigger("toy", 0.4).threshold
    assert 0 < sum(step.fired for step in steps) < len(steps)
    assert all(step.fired == (step.statistic > threshold) for step in steps)
    rows = evaluate(session, items(50, 4, "test"), ["short", "s2t"], EvalSettings(DECODE, select)).rows
    assert {row.method for row in rows} == {"short", "s2t"}
    methods.register(replace(METHODS["s2t"], name="s2t-toy", trigger="toy"))
    told = session.generate(questions, "s2t-toy", DECODE, SelectConfig(trigger_budget=0.4))
    assert [step for answer in told for step in answer.steps] == steps, "a record decides for itself"
    free = methods.register(replace(METHODS["s2t-local"], name="local-toy", trigger="margin"))
    assert (
        free.trigger_name(SelectConfig()) == "margin" and METHODS["s2t-local"].trigger_name(SelectConfig()) == "entropy"
    )
    with pytest.raises(S2TError, match="did you mean 'toy'"):
        session.generate(questions, "s2t", DECODE, SelectConfig(trigger="toi"))
