"""Real servers: the decisions of the bundled pair with its LLM behind llama-server, vLLM, SGLang are as in process.

`make test-servers` installs them and runs this; `S2T_SERVERS` names where they are. 200 problems of the test split,
fp32. Where an answer differs, its first different step is a tie: two tokens whose log-probabilities in process lie
closer than `TIE_NATS`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any
from unittest import mock

import numpy as np
import pytest

from running import SERVERS, START_S, VLLM_ENVIRONMENT, Running, free_port, gap, vllm_python
from select_to_think.config import DecodeConfig, MentorConfig, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.models.gguf import convert
from select_to_think.pairs.problems import load_split
from select_to_think.session import Session
from select_to_think.structures import Generation, ModelUnavailable
from select_to_think.training.labels import top_labels

HERE = Path(__file__).parent
LLM = HERE.parents[1] / "src/select_to_think/pairs/demo/llm"
CROSSED = LLM.parents[1] / "demo-x/llm"
N, CROSSED_N = 200, 60
TIE_NATS = 1e-4
RUNTIME = RuntimeConfig(kv_memory_gib=0.2, llm_deadline=120.0)
ENTROPY, KL = SelectConfig(trigger="entropy"), SelectConfig(trigger="kl")
CASES = {
    "takeover": ("takeover", ENTROPY),
    "s2t": ("s2t", ENTROPY),
    "s2t-kl": ("s2t", KL),
    "mentor-free": ("mentor-free", ENTROPY),
    "llm": ("llm", ENTROPY),
}


@cache
def questions() -> list[str]:
    problems = load_split("test", limit_per_domain=-(-N // 3))
    return [problem.question for problem in problems][:N]


def answers(session: Session, case: str, n: int = N) -> list[Generation]:
    method, select = CASES[case]
    return session.generate(questions()[:n], method, DecodeConfig(max_new_tokens=64), select, MentorConfig())


@cache
def beside(case: str) -> list[Generation]:
    """With the LLM in process."""
    return answers(Session(runtime=RUNTIME), case)


def llama_server(folder: Path) -> Running:
    program, gguf, port = SERVERS / "llama/llama-server", folder / "llm.gguf", free_port()
    if not program.exists():
        pytest.skip(f"{program} is not there: make test-servers installs it")
    with mock.patch.dict(os.environ, PYTHONPATH=str(SERVERS / "llama" / "python")):
        assert not convert(LLM, gguf, SERVERS / "llama" / "convert_hf_to_gguf.py", "f32"), "nobody knows its tokenizer"
    return Running(
        [str(program), "--model", str(gguf), "--port", str(port), "--ctx-size", "8192", "--parallel", "8",
         "--threads", "1", "--no-webui", "--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"],
        port, folder / "log",
    )  # fmt: skip


def vllm(folder: Path, model: Path = LLM) -> Running:
    port = free_port()
    return Running(
        [vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", "float32",
         "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "16", "--max-logprobs", "2048",
         "--port", str(port)],
        port, folder / "log", **VLLM_ENVIRONMENT, PYTHONPATH="",
    )  # fmt: skip


def sglang(folder: Path, model: Path = LLM) -> Running:
    if not (SERVERS / "sglang/ready").exists():
        pytest.skip(f"there is no SGLang in {SERVERS}: make test-servers installs it")
    port = free_port()
    return Running(
        [str(SERVERS / "sglang/bin/python"), "-m", "sglang.launch_server", "--model-path", str(model), "--dtype",
         "float32", "--device", "cpu", "--attention-backend", "torch_native", "--context-length", "1024",
         "--max-total-tokens", "20000", "--port", str(port)],
        port, folder / "log", SGLANG_USE_CPU_ENGINE="1", HF_HUB_OFFLINE="1", PYTHONPATH="",
    )  # fmt: skip


@pytest.fixture(scope="module", params=[llama_server, vllm, sglang], ids=["llama-server", "vllm", "sglang"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running: Running = request.param(tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.kill()


def assert_same(case: str, ours: list[Generation], theirs: list[Generation]) -> None:
    """But for ties, which are told."""
    ties = []
    for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one.counts.llm_failures == 0
        if one.tokens == other.tokens:
            continue
        pairs = zip(one.steps, other.steps, strict=False)
        at = next(n for n, (a, b) in enumerate(pairs) if (a.token, a.fired) != (b.token, b.fired))
        ties.append((i, at, gap(other.steps[at])))
    print(f"{case}: {len(ours) - len(ties)} of {len(ours)} answers are the same; ties: {ties}")
    assert all(apart < TIE_NATS for _, _, apart in ties), ties


@pytest.mark.parametrize("case", list(CASES))
def test_decisions_are_those_in_process(server: Running, case: str, record_property: Any) -> None:
    if case == "s2t-kl" and "llama-server" in server.command[0]:
        pytest.skip("it tells log-probabilities of the next token only: the KL trigger asks once for every token")
    session = Session(PairConfig(llm=server.url), runtime=RUNTIME)
    if CASES[case][1] is KL:  # the thresholds of the pair in process: these are the same weights
        session.calibration = replace(Session().calibration, llm_fingerprint=session.llm.fingerprint)
    ours = answers(session, case)
    assert len(ours) == N
    assert_same(case, ours, beside(case))
    assert case == "llm" or sum(step.chooser == "llm" for answer in ours for step in answer.steps) > 20


@pytest.fixture(scope="module", params=[vllm, sglang], ids=["vllm", "sglang"])
def crossed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With the LLM that has other tokens than the SLM."""
    running: Running = request.param(tmp_path_factory.mktemp("crossed"), CROSSED)
    running.start()
    yield running
    running.kill()


@pytest.mark.parametrize("case", ["takeover", "s2t", "mentor-free", "llm"])
def test_decisions_over_two_vocabularies_are_those_in_process(crossed: Running, case: str) -> None:
    pair = PairConfig(pair="demo-x", llm=crossed.url, llm_tokenizer=str(CROSSED))
    ours, theirs = (
        answers(Session(each, runtime=RUNTIME), case, CROSSED_N) for each in (pair, PairConfig(pair="demo-x"))
    )
    assert_same(case, ours, theirs)
    assert sum(step.chooser == "llm" for answer in ours for step in answer.steps) > 5


def test_labels_are_those_in_process_while_others_ask_for_ids(server: Running, tmp_path: Path) -> None:
    """vLLM 0.32 tells no most probable tokens in a step in which anybody asks for ids."""
    session, other = (Session(PairConfig(llm=server.url), runtime=RUNTIME) for _ in range(2))
    own, texts = Session(runtime=RUNTIME), zip(questions()[:24], beside("llm"), strict=False)
    pairs = [(own.prompt(question, 64, with_llm=True), answer.tokens) for question, answer in texts]
    asked = Thread(target=other.generate, args=(questions()[:60], "s2t", DecodeConfig(max_new_tokens=64), ENTROPY))
    _ = other.llm
    asked.start()
    found = top_labels(session, pairs, 8, tmp_path / "found.jsonl", DecodeConfig())
    asked.join()
    for (ids, logprobs), (same, values) in zip(
        found, top_labels(own, pairs, 8, tmp_path / "own.jsonl", DecodeConfig()), strict=True
    ):
        np.testing.assert_allclose(logprobs, values, atol=1e-3)
        assert np.mean(ids == same) > 0.999  # those that are equally probable may change places


def test_a_server_that_is_killed_and_comes_back_changes_no_answer(server: Running) -> None:
    session = Session(PairConfig(llm=server.url), runtime=replace(RUNTIME, llm_deadline=START_S))
    stream = session.stream(questions()[:60], "takeover", DecodeConfig(max_new_tokens=64, max_batch=4), ENTROPY)
    found = dict([next(stream)])
    server.kill()
    server.start()
    found.update(stream)
    assert [found[i].tokens for i in range(60)] == [answer.tokens for answer in beside("takeover")[:60]]


def test_a_server_that_stays_away_ends_answers_with_the_reason(server: Running) -> None:
    session = Session(PairConfig(llm=server.url), runtime=replace(RUNTIME, llm_deadline=30.0))
    session.generate(questions()[:1], "llm", DecodeConfig(max_new_tokens=4))
    server.kill()
    try:
        with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1"):
            session.generate(questions()[:2], "llm", DecodeConfig(max_new_tokens=64))
    finally:
        server.start()
