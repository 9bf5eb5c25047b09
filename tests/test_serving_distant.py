"""Engine and server at two ends of a line: in two processes they are as one, and neither outlives the other."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import httpx
import psutil
import pytest

from select_to_think import Session
from select_to_think.config import DecodeConfig, MethodSettings, RuntimeConfig, ServeConfig
from select_to_think.pairs.problems import load_split
from select_to_think.runs import Committed, Finished
from select_to_think.serving.engine import ROW_SLOTS, Engine, told
from select_to_think.serving.line import Line, packed
from select_to_think.serving.server import CAN_PART, bind, listen
from select_to_think.serving.wanted import Ended, Job, Wanted, Written
from select_to_think.structures import Counts, Generation, S2TError, StepRecord
from serve import until
from test_serving_command import program

QUESTIONS = [problem.question for problem in load_split("validation", limit_per_domain=2)]
ENDLESS: dict[str, Any] = {"model": "demo:greedy", "prompt": "Ida has", "max_tokens": 900, "logit_bias": {"2": -100}}


def test_messages_come_whole_and_in_order_however_they_are_cut() -> None:
    line, sent = Line(), [("take", 1, ["a" * 300_000]), ("forget", 2), ("ask", 3, "state")]
    data = b"".join(packed(*message) for message in sent)

    def send() -> None:
        for at in range(0, len(data), 70_001):
            line.far.sendall(data[at : at + 70_001])
            time.sleep(0.01)

    sender = threading.Thread(target=send)
    sender.start()
    found: list[Any] = []
    while len(found) < 3:
        found += line.messages(wait=True)
    sender.join()
    assert found == sent and line.messages(wait=False) == []
    line.far.sendall(data[:20])
    assert line.messages(wait=False) == []  # a part is none
    line.far.close()
    with pytest.raises(EOFError):
        line.messages(wait=True)
    line.send("news", [])  # to nobody
    line.close()


@pytest.mark.parametrize("streamed", [True, False])
def test_tokens_cross_the_line_once(streamed: bool) -> None:
    steps = tuple(StepRecord(token, 0.0) for token in (5, 6, 2))
    wanted = Wanted("greedy", MethodSettings(), [1], "", detailed=False, streamed=streamed)
    job = Job(wanted, cast(Any, None), 0, 0)
    during = told(job, Committed(0, steps))
    *behind, ended = told(job, Finished(0, Generation((5, 6, 2), "stop", steps, Counts())))
    written = [Written((5, 6, 2), ())]
    assert (during, behind) == ((written, []) if streamed else ([], written))
    assert isinstance(ended, Ended) and ended.tokens == 3


def test_memory_is_taken_when_the_engine_starts() -> None:
    """In a memory that fits no gap of the heap: there, zeros would have been written before."""
    session = Session.load(runtime=RuntimeConfig(kv_memory_gib=4, prefix_cache_tokens=4096))
    session.backend("slm")
    engine = Engine(session, max_rows=16)
    assert {"memory", "extents"} <= vars(session.backends["slm"]).keys(), "for which there may be no room"
    memory = cast(Any, session.backends["slm"]).memory
    slot_bytes = sum(stack[:, 0].nbytes for stack in memory.stacks)
    before = psutil.Process().memory_info().rss
    engine.start()
    taken = psutil.Process().memory_info().rss - before
    wanted = slot_bytes * (4096 + 16 * ROW_SLOTS)
    ends = sum(map(len, memory.stacks)) * (2 << 20)  # a huge page of each tensor
    assert 0.9 * wanted < taken < wanted + ends + (8 << 20)
    engine.line.far.close()
    engine.thread.join(10)
    assert not engine.thread.is_alive()


Running = tuple[subprocess.Popen[str], psutil.Process, httpx.Client]


@contextmanager
def started() -> Iterator[Running]:
    """The engine's process, the server's, and a client."""
    if not CAN_PART:
        pytest.skip("the server has a process of its own only where a fork is safe")
    with (
        program("--max-queue", "2", "--max-batch", "2") as (process, url),
        httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=20), timeout=60) as client,
    ):
        assert client.get("/health").status_code == 200
        (server,) = psutil.Process(process.pid).children()
        yield process, server, client


@pytest.fixture
def running() -> Iterator[Running]:
    """For a test that ends it."""
    with started() as found:
        yield found


@pytest.fixture(scope="module")
def kept() -> Iterator[Running]:
    """For tests that leave it as it was."""
    with started() as found:
        yield found


def chat(question: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "max_tokens": 40, **fields}


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_two_processes_answer_as_the_session(kept: Running) -> None:
    _, server, client = kept
    before = metric(client, "s2t_answers_total")
    assert server.name() == psutil.Process(server.ppid()).name()
    session = Session.load()
    for method in ("s2t-local", "s2t"):
        for question, (_, wanted) in zip(
            QUESTIONS, sorted(session.stream(QUESTIONS, method, DecodeConfig(max_new_tokens=40))), strict=True
        ):
            body = chat(question, s2t={"method": method, "trace": True})
            answer = client.post("/v1/chat/completions", json=body).json()
            (choice,) = answer["choices"]
            assert choice["message"]["content"] == wanted.text
            assert answer["usage"]["s2t"]["flips"] == wanted.flip_count
            assert [step["token"] for step in choice["s2t"]["steps"]] == list(wanted.tokens)
            assert choice["s2t"]["trigger"] == ("kl" if method == "s2t" else "entropy")
    scored = client.post("/v1/completions", json={"prompt": "Ida has", "max_tokens": 0, "echo": True, "logprobs": 1})
    assert len(scored.json()["choices"][0]["logprobs"]["token_logprobs"]) > 1
    assert metric(client, "s2t_answers_total") - before == 2 * len(QUESTIONS), "a prompt that is scored is no answer"
    assert metric(client, "s2t_requests_total") > 2 * len(QUESTIONS) and metric(client, "s2t_kv_slots{") > 0
    assert metric(client, "process_resident_memory_bytes") > 1 << 20


def test_what_the_engine_refuses_has_its_status(kept: Running) -> None:
    client = kept[2]
    before = metric(client, "s2t_answers_total")
    none = client.post("/v1/chat/completions", json=chat("a", s2t={"method": "s2t", "candidates": 1700}))
    assert none.status_code == 400 and "lower --candidates" in none.json()["error"]["message"]
    never = client.post("/v1/completions", json={**ENDLESS, "prompt": ["Ida has"] * 5})
    assert never.status_code == 400 and "ask for fewer" in never.json()["error"]["message"]
    with client.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as answer:
        chunks = answer.iter_bytes()
        assert next(chunks)
        many = client.post("/v1/completions", json={**ENDLESS, "prompt": ["Ida has"] * 4})
        assert many.status_code == 429 and many.headers["Retry-After"] == "1"
    until(lambda: client.get("/v1/s2t/state").json()["rows"] == 0, 60)
    assert metric(client, "s2t_answers_total") - before == 5 + 1 + 4


def test_a_client_that_hangs_up_leaves_no_row(kept: Running) -> None:
    client = kept[2]
    with client.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as answer:
        chunks = answer.iter_bytes()
        assert next(chunks)
        assert client.get("/v1/s2t/state").json()["rows"] == 1
    until(lambda: client.get("/v1/s2t/state").json()["rows"] == 0, 60)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_told_to_stop_it_ends_streams_and_both_processes(running: Running, number: int, code: int) -> None:
    process, server, client = running
    with client.stream("POST", "/v1/completions", json={**ENDLESS, "max_tokens": 300, "stream": True}) as answer:
        chunks = answer.iter_bytes()
        next(chunks)
        process.send_signal(number)
        assert b"".join(chunks).endswith(b"data: [DONE]\n\n")
    assert process.wait(60) == code
    until(lambda: not server.is_running())


def test_neither_process_outlives_the_other(running: Running) -> None:
    process, server, client = running

    def ask() -> None:
        with suppress(httpx.RemoteProtocolError):  # it is cut off
            client.post("/v1/completions", json=ENDLESS)

    ended = threading.Thread(target=ask)
    ended.start()
    until(lambda: metric(client, "s2t_rows") == 1)
    server.send_signal(signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert any(line.startswith("error: the server's process ended with -9") for line in told.splitlines())
    ended.join(60)


def test_the_server_ends_with_its_engine(running: Running) -> None:
    process, server, client = running
    with client.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as answer:
        chunks = answer.iter_bytes()
        next(chunks)
        os.kill(process.pid, signal.SIGKILL)
        assert b"the server is stopping" in b"".join(chunks)
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def test_of_two_that_were_bound_to_one_address_the_second_is_told_so() -> None:
    with bind(ServeConfig(port=0)) as first:
        serve = ServeConfig(port=first.getsockname()[1])
        with bind(serve) as second:  # while nobody listens
            listen(first, serve)
            with pytest.raises(S2TError, match="choose another --port"):
                listen(second, serve)


def test_tokens_do_not_wait_until_the_last_one_is_confirmed() -> None:
    with bind(ServeConfig(port=0)) as bound:
        assert bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
