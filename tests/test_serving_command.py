"""`s2t serve` as a program, and lm-evaluation-harness as its client."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from select_to_think import Session
from select_to_think.cli import app
from select_to_think.config import DecodeConfig
from select_to_think.pairs import bundled_model
from select_to_think.pairs.problems import load_split
from serve import SMALL, serving

FLAGS = ["serve", "--port", "0", "--kv-memory-gib", "0.05"]
PROBLEMS = load_split("validation", limit_per_domain=2)


@contextmanager
def program(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running command and its address."""
    command = [sys.executable, "-m", "select_to_think", *FLAGS, *flags]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        assert running.stderr is not None
        told = ""
        while not (found := re.search(r"http://[\d.:]+", told)):
            line = running.stderr.readline()
            assert line, f"the server did not start: {told}"
            told += line
        yield running, found[0]
    finally:
        running.kill()
        running.communicate()


def test_the_command_serves_until_it_is_told_to_stop() -> None:
    with program("--method", "greedy", "--max-new-tokens", "5") as (running, url):
        with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=20)) as client:
            body = {"messages": [{"role": "user", "content": PROBLEMS[0].question}]}
            answer = client.post("/v1/chat/completions", json=body, timeout=60).json()
        assert answer["model"] == "demo:greedy" and answer["usage"]["completion_tokens"] == 5
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=60)
        assert running.returncode == 130 and out == ""


@pytest.mark.parametrize("flags", [["--method", "nothing"], ["--host", "999.1.1.1"], ["--max-n", "0"], []])
def test_what_cannot_be_served_is_one_line(flags: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = ["--port", str(taken.getsockname()[1])] if not flags else []
        assert app.main([*FLAGS, *port, *flags]) == 2
    out, err = capfd.readouterr()
    assert out == "" and [line.startswith("error:") for line in err.splitlines()][-1:] == [True], err


@pytest.mark.parametrize("backend", ["auto", "huggingface"])  # auto: the server's own /tokenize
def test_the_harness_scores_through_the_server_what_the_session_scores(backend: str) -> None:
    models = pytest.importorskip("lm_eval.models.openai_completions", reason="this test needs the extra `lm-eval`")
    from lm_eval.api.instance import Instance

    session = Session.load(runtime=SMALL)
    pairs = [(problem.question, f" The answer is {answer}.") for problem in PROBLEMS for answer in (problem.answer, 7)]
    requests = [Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(pairs)]
    until = [Instance("generate_until", {}, (p.question, {"until": ["."], "max_gen_toks": 20}), 0) for p in PROBLEMS]
    with serving(Session.load(runtime=SMALL)) as served:
        settings: dict[str, Any] = {"model": "demo:greedy", "base_url": f"{served.url}/v1/completions"}
        if backend == "huggingface":
            settings["tokenizer"] = str(bundled_model("demo", "slm"))
        settings |= {"tokenizer_backend": backend, "batch_size": 4, "max_length": 1024, "num_concurrent": 1}
        model = models.LocalCompletionsAPI(**settings)
        assert (type(model.tokenizer).__name__ == "RemoteTokenizer") == (backend == "auto")
        told = model.loglikelihood(requests, disable_tqdm=True)
        written = model.generate_until(until, disable_tqdm=True)
    ids = [[session.slm.tokenizer(text).input_ids for text in (question, question + rest)] for question, rest in pairs]
    prompts, outputs = [begin for begin, _ in ids], [whole[len(begin) :] for begin, whole in ids]
    for place, scored in session.score(prompts, outputs):
        assert told[place][0] == pytest.approx(scored.logprob, abs=1e-3)
        assert told[place][1] == all(step.token == step.greedy_token for step in scored.steps)
    asked = [session.slm.tokenizer(problem.question).input_ids for problem in PROBLEMS]
    decode = DecodeConfig(max_new_tokens=20)
    expected = {place: answer.text for place, answer in session.stream(asked, "greedy", decode, stop=["."])}
    assert written == [expected[place] for place in range(len(asked))]
