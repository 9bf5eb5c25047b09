"""The LLM behind `s2t serve`: the bundled pair decides as with both models in process, token for token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from select_to_think.config import (
    DecodeConfig,
    MentorConfig,
    MethodSettings,
    PairConfig,
    RuntimeConfig,
    SelectConfig,
    ServeConfig,
)
from select_to_think.methods import METHODS
from select_to_think.pairs.problems import load_split
from select_to_think.session import Session
from select_to_think.structures import S2TError
from serve import Served, serving
from test_remote_laws import assert_same

RUNTIME = RuntimeConfig(kv_memory_gib=0.05)
DECODE = DecodeConfig(max_new_tokens=40)
QUESTIONS = [problem.question for problem in load_split("validation", limit_per_domain=2)]


@pytest.fixture(scope="module")
def beside() -> Session:
    return Session(runtime=RUNTIME)


@pytest.fixture(scope="module")
def served(beside: Session) -> Iterator[Served]:
    with serving(beside, ServeConfig(port=0)) as server:
        yield server


@pytest.fixture(scope="module")
def apart(served: Served) -> Session:
    return Session(PairConfig(llm=f"{served.url}/v1"), runtime=RUNTIME)


@pytest.mark.parametrize(
    ("method", "trigger"),
    [("takeover", "entropy"), ("s2t", "entropy"), ("s2t", "kl"), ("mentor-free", None), ("llm", None)],
)
def test_the_bundled_pair_decides_as_in_process(apart: Session, beside: Session, method: str, trigger: str) -> None:
    select = SelectConfig(trigger=trigger, trigger_budget=0.1)
    ours, theirs = (each.generate(QUESTIONS, method, DECODE, select, MentorConfig()) for each in (apart, beside))
    assert_same(ours, theirs)
    assert any(answer.counts.llm_forwards for answer in ours)


def test_a_bias_is_refused_before_anything_is_written(apart: Session) -> None:
    biased = MethodSettings(logit_bias=((30, 1.0),))
    with pytest.raises(S2TError, match="s2t asks an LLM behind a server: leave logit_bias out"):
        apart.answering(METHODS["s2t"], apart.decoder("s2t", biased), QUESTIONS[0], [5, 6], biased)


def test_the_server_is_known_by_itself_and_its_llm_by_its_weights(apart: Session, beside: Session) -> None:
    assert apart.reached is not None and apart.reached.server.kind == "s2t"
    assert apart.reached.server.model.endswith(":llm")
    assert apart.llm.fingerprint == beside.llm.fingerprint
    assert apart.room(with_llm=True) == beside.room(with_llm=True)
