"""`s2t serve` on Ray Serve with two replicas of the bundled pair. Skipped where Ray is not installed."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from select_to_think.pairs.problems import load_split
from select_to_think.session import Session
from select_to_think.structures import S2TError

ray = pytest.importorskip("ray", reason="needs the extra select-to-think[ray]")

from ray import serve  # noqa: E402

from select_to_think.integrations.ray_serve import Asked, build  # noqa: E402

QUESTIONS = [problem.question for problem in load_split("validation", limit_per_domain=2)]


def test_settings_are_read_as_a_command_line_gives_them() -> None:
    for settings, says in (
        ({"replica": "2"}, "unknown setting 'replica'; did you mean 'replicas'"),
        ({"replicas": "two"}, "replicas: .*, got 'two'"),
        ({"max_batch": "0"}, "max_batch must be at least 1"),
        ({"scorer_mode": "both"}, "scorer_mode: "),
    ):
        with pytest.raises(S2TError, match=says):
            build(settings)
    assert build({"replicas": "2", "gpus": "0", "trigger_budget": "0.05"})


def test_what_the_router_compares() -> None:
    def prompt(body: bytes) -> str:
        return Asked({}, body).prompt

    assert prompt(json.dumps({"prompt": "Once"}).encode()) == "Once"
    first = [{"role": "user", "content": "What is seven and five?"}]
    longer = [*first, {"role": "assistant", "content": "12"}, {"role": "user", "content": "And six?"}]
    one, two = (prompt(json.dumps({"messages": turns}).encode()) for turns in (first, longer))
    assert two.startswith(one[:-1]) and "seven" in one
    for odd in (b"", b"[1]", b"{", b'{"messages": 3}', b'{"messages": [3]}', b"\xff"):
        assert isinstance(prompt(odd), str)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init("local", num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "ERROR"})
    serve.run(build({"replicas": "2", "cpus": "0.5", "method": "s2t-local", "kv_memory_gib": "0.25"}))
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


def asked(question: str, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": question}], "max_tokens": 40, **more}


def test_two_replicas_answer_as_the_library(address: str) -> None:
    """Whole answers, streams, errors and the other routes, through whichever replica."""
    with httpx.Client(base_url=address, timeout=120) as client:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda each: client.post("/v1/chat/completions", json=asked(each)), QUESTIONS * 2))
        texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
        expected = [each.text for each in Session.load().generate(QUESTIONS)]
        assert texts == expected * 2
        with client.stream("POST", "/v1/chat/completions", json=asked(QUESTIONS[0], stream=True)) as stream:
            lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
        pieces = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines[:-1]]
        assert lines[-1] == "[DONE]" and "".join(pieces) == expected[0] and len(pieces) > 2
        refused = client.post("/v1/chat/completions", json=asked(QUESTIONS[0], temperature=-1))
        assert refused.status_code == 400 and "temperature" in refused.json()["error"]["message"]
        assert refused.headers["x-content-type-options"] == "nosniff"
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/nothing").status_code == 404
        assert "demo:s2t-local" in [model["id"] for model in client.get("/v1/models").json()["data"]]


def test_a_body_that_is_too_large_is_not_read(address: str) -> None:
    with httpx.Client(base_url=address, timeout=60) as client:
        answer = client.post("/v1/completions", content=b"x" * (3 << 20))
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"
    assert "x-s2t-replica" not in answer.headers, "it was sent to a replica"


def test_what_begins_alike_stays_at_one_replica(address: str) -> None:
    used = Counter[str]()
    with httpx.Client(base_url=address, timeout=120) as client:
        for letter in "ABCDEF":
            text, replicas = f"{letter * 20} {QUESTIONS[0]}", set()
            for _ in range(4):
                answer = client.post("/v1/completions", json={"model": "demo:greedy", "prompt": text, "max_tokens": 8})
                replicas.add(answer.headers["x-s2t-replica"])
                text += answer.json()["choices"][0]["text"] + " And then?"
            assert len(replicas) == 1, letter
            used.update(replicas)
    assert len(used) == 2, used
