"""What goes wrong: bad input, clients that leave, a full queue, time-outs, the end of the server. It goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

from select_to_think import Session
from select_to_think.config import MethodSettings, RuntimeConfig, ServeConfig
from select_to_think.methods import find_method
from select_to_think.runs import Run
from select_to_think.serving.catalogue import Catalogue
from select_to_think.serving.engine import Engine
from select_to_think.serving.errors import RequestError, request_error
from select_to_think.serving.line import packed
from select_to_think.serving.wanted import Job, Wanted
from select_to_think.streams import Streams
from select_to_think.structures import ModelRefused, ModelUnavailable, S2TError
from serve import SMALL, Served, serving, until
from tiny import tiny_loaded

ENDLESS: dict[str, Any] = {"model": "demo:greedy", "prompt": "Ida has", "max_tokens": 900, "logit_bias": {"2": -100}}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(Session.load(runtime=SMALL)) as found:
        yield found


def said(*turns: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": turn} for turn in turns], **fields}


BAD: list[tuple[str, Any, int, str]] = [
    (CHAT, b"", 400, "missing"),
    (CHAT, b"{", 400, "not valid JSON"),
    (CHAT, b"\xff\xfe", 400, ""),
    (CHAT, b"[" * 100_000, 400, ""),
    (CHAT, b'{"n": ' + b"9" * 5000 + b"}", 400, ""),
    (CHAT, b"[]", 400, "JSON object"),
    (CHAT, b'"text"', 400, "JSON object"),
    (CHAT, {}, 400, "messages"),
    (CHAT, {"messages": []}, 400, "messages"),
    (CHAT, {"messages": "hello"}, 400, "messages"),
    (CHAT, said(""), 400, "empty"),
    (CHAT, said(None), 400, "empty"),
    (CHAT, said(7), 400, "messages.0.content"),
    (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role"),
    (CHAT, {"messages": [{"role": "system", "content": "x"}]}, 400, "empty"),
    (CHAT, said([{"type": "image_url", "image_url": {"url": "x"}}]), 400, "messages.0.content"),
    (CHAT, said("a" * 100_000), 400, "context"),
    (CHAT, said("a", max_tokens=5000), 400, "max_tokens"),
    (CHAT, said("a", max_tokens=0), 400, "max_tokens"),
    (CHAT, said("a", max_completion_tokens=-1), 400, "max_completion_tokens"),
    (CHAT, said("a", max_tokens=10**30), 400, "max_tokens"),
    (CHAT, said("a", n=0), 400, "n"),
    (CHAT, said("a", n=1000), 400, "n"),
    (CHAT, said("a", n="2"), 400, "n"),
    (CHAT, said("a", n=True), 400, "n"),
    (CHAT, said("a", temperature=-1), 400, "temperature"),
    (CHAT, said("a", temperature=1e300), 400, "temperature"),
    (CHAT, b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', 400, "temperature"),
    (CHAT, b'{"messages": [{"role": "user", "content": "a"}], "top_p": 1e999}', 400, "top_p"),
    (CHAT, said("a", top_p=1.5), 400, "top_p"),
    (CHAT, said("a", seed=2**70), 400, "seed"),
    (CHAT, said("a", stop=[""]), 400, "stop"),
    (CHAT, said("a", stop=["x"] * 17), 400, "stop"),
    (CHAT, said("a", stop=7), 400, "stop"),
    (CHAT, said("a", stop=["\ud800"]), 400, "half a character"),
    (CHAT, said("\ud800"), 400, "half a character"),
    (CHAT, said("a", model="\ud800"), 400, "model"),
    (CHAT, b'{"\\ud800": 1, "messages": [{"role": "user", "content": "a"}]}', 400, "in UTF-8"),
    (CHAT, said("a", logit_bias={"x": 1}), 400, "logit_bias"),
    (CHAT, said("a", logit_bias={"99999": 1}), 400, "logit_bias"),
    (CHAT, said("a", logit_bias={"1": 101}), 400, "logit_bias"),
    (CHAT, said("a", logit_bias={"-1": 1}), 400, "logit_bias"),
    (CHAT, said("a", logit_bias={"²": 1}), 400, "logit_bias"),
    (CHAT, said("a", top_logprobs=2), 400, "logprobs"),
    (CHAT, said("a", logprobs=True, top_logprobs=21), 400, "top_logprobs"),
    (CHAT, said("a", logprobs=True, logprob_token_ids=[5]), 400, "log-probabilities"),
    (CHAT, said("a", model="demo:greedy", logprobs=True, logprob_token_ids=[10**9]), 400, "logprob_token_ids"),
    (CHAT, said("a", stream_options={"include_usage": True}), 400, "stream_options"),
    (CHAT, said("a", foo=1), 400, "Unrecognized request argument supplied: foo"),
    (CHAT, said("a", tools=[{"type": "function"}]), 400, "not supported"),
    (CHAT, said("a", functions=[]), 400, "not supported"),
    (CHAT, said("a", tool_choice={"type": "function"}), 400, "tool_choice"),
    (CHAT, said("a", response_format={"type": "json_object"}), 400, "response_format"),
    (CHAT, said("a", frequency_penalty=0.5), 400, "only 0 is served"),
    (CHAT, said("a", presence_penalty=-1), 400, "presence_penalty"),
    (CHAT, said("a", modalities=["audio"]), 400, "modalities"),
    (CHAT, said("a", model="gpt-4o"), 404, "demo:s2t-local"),
    (CHAT, said("a", model="demo:s2tlocal"), 404, "did you mean 'demo:s2t-local'"),
    (CHAT, said("a", model=""), 404, "unknown model"),
    (CHAT, said("a", model="demo:maj@0"), 404, "unknown model"),
    (CHAT, said("a", model="demo:maj@99999999"), 400, "at most maj@128"),
    (CHAT, said("a", model="demo:maj@" + "9" * 400), 404, "unknown model"),
    (CHAT, said("a", model="x" * 5000), 400, "model"),
    (CHAT, said("a", s2t={"method": "maj@" + "9" * 400}), 400, "unknown method"),
    (CHAT, said("a", s2t={"method": "maj@" + "9" * 5000}), 400, "s2t.method"),
    (CHAT, said("a", s2t={"trigger": "x" * 5000}), 400, "s2t.trigger"),
    (CHAT, said("a", logit_bias={str(token): 1 for token in range(1500)}), 400, "logit_bias"),
    (CHAT, said("a", s2t={"method": "x"}), 400, "unknown method"),
    (CHAT, said("a", s2t={"foo": 1}), 400, "s2t.foo"),
    (CHAT, said("a", s2t=[]), 400, "s2t"),
    (CHAT, said("a", s2t={"trigger": "entropi"}), 400, "did you mean 'entropy'"),
    (CHAT, said("a", s2t={"trigger": "kl"}), 400, "runs without an LLM"),
    (CHAT, said("a", s2t={"preset": "s2t-papr"}), 400, "did you mean 's2t-paper'"),
    (CHAT, said("a", s2t={"preset": "mentorcollab-paper", "order": "debiased"}), 400, "order ab"),
    (CHAT, said("a", s2t={"trigger_budget": 2}), 400, "s2t.trigger_budget"),
    (CHAT, said("a", s2t={"candidates": 10**6}), 400, "candidates"),
    (CHAT, said("a", s2t={"candidates": 0}), 400, "s2t.candidates"),
    (CHAT, said("a", s2t={"method": "mentor-free", "verifier_template": "x"}), 400, "template"),
    (CHAT, said("a", s2t={"alternatives": 21}), 400, "s2t.alternatives"),
    (CHAT, said("a", s2t={"answer_tokens": [99999]}), 400, "token ids"),
    (CHAT, said("a", s2t={"answer_tokens": [-1]}), 400, "s2t.answer_tokens.0"),
    (CHAT, said("a", s2t={"answer_tokens": [5] * 2000}), 400, "context"),
    (TEXT, {"prompt": ""}, 400, "empty"),
    (TEXT, {"prompt": []}, 400, "prompt"),
    (TEXT, {"prompt": [[]]}, 400, "empty"),
    (TEXT, {"prompt": None}, 400, "prompt"),
    (TEXT, {"prompt": {"a": 1}}, 400, "prompt"),
    (TEXT, {"prompt": ["a", 1]}, 400, "prompt.1"),
    (TEXT, {"prompt": [1, -1]}, 400, "prompt.1"),
    (TEXT, {"prompt": [1, 99999]}, 400, "token ids"),
    (TEXT, {"prompt": [2**40]}, 400, "prompt.0"),
    (TEXT, {"prompt": ["a"] * 1000}, 400, "prompts times n"),
    (TEXT, {"prompt": "\udfff"}, 400, "half a character"),
    (TEXT, {"prompt": "a", "best_of": 3}, 400, "best_of"),
    (TEXT, {"prompt": "a", "suffix": "b"}, 400, "not supported"),
    (TEXT, {"prompt": "a", "logprobs": 21}, 400, "logprobs"),
    (TEXT, {"prompt": "a " * 1020, "max_tokens": 100}, 400, "context"),
    ("/tokenize", {}, 400, "prompt or messages"),
    ("/tokenize", {"prompt": "\ud800"}, 400, "half a character"),
    ("/detokenize", {"tokens": [99999]}, 400, "99999"),
    ("/v1/nothing", {}, 404, "nothing at this address"),
    ("/v1/models", {}, 405, "method"),
]


STREAMED = [
    (path, {**body, "stream": True}, status, needle)
    for path, body, status, needle in BAD
    if path in (CHAT, TEXT) and isinstance(body, dict) and "stream_options" not in body
]


@pytest.mark.parametrize(("path", "body", "status", "needle"), BAD + STREAMED, ids=range(len(BAD + STREAMED)))
def test_bad_input_is_refused_in_openais_words(served: Served, path: str, body: Any, status: int, needle: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(served.url + path, content=content, headers={"Content-Type": "application/json"}, timeout=60)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert needle in error["message"] or needle == error["param"], error
    assert "Traceback" not in answer.text and len(error["message"]) < 1000


def test_the_server_goes_on_after_bad_input(served: Served) -> None:
    assert served.client.completions.create(model="demo", prompt="Ida has", max_tokens=2).choices[0].text
    assert served.get("/v1/s2t/state")["rows"] == 0


def test_errors_have_the_types_of_the_client(served: Served) -> None:
    with pytest.raises(openai.BadRequestError) as found:
        served.client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "a"}], n=5000)
    assert found.value.param == "n" and found.value.body["type"] == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as found:
        served.client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "a " * 2000}])
    assert found.value.code == "context_length_exceeded"
    for lost in (ModelUnavailable, ModelRefused):  # no mistake of the client's
        assert (request_error(lost("gone")).status, request_error(lost("gone")).code) == (503, "model_unavailable")
    with pytest.raises(openai.NotFoundError) as missing:
        served.client.completions.create(model="gpt-9", prompt="a")
    assert missing.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_takes_the_row_along(served: Served, stream: bool) -> None:
    body = {**ENDLESS, "stream": stream, "n": 3}
    with pytest.raises(httpx.ReadTimeout), httpx.stream("POST", served.url + TEXT, json=body, timeout=1) as answer:
        next(answer.iter_lines())
        raise httpx.ReadTimeout("enough")
    until(lambda: not served.engine.live and served.get("/v1/s2t/state")["rows"] == 0, 5)
    backend = served.engine.session.backends["slm"]
    assert not backend.waiting and not served.engine.streams.runtime.busy
    before = backend.forwards
    assert served.get("/health") and backend.forwards == before


class Recorded:
    """A runtime that says what it was asked, and whose step waits to be let go."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.entered, self.go = threading.Event(), threading.Event()
        self.keys: list[Any] = []

    def add(self, key: Any, run: Run) -> None:
        self.keys.append(key)
        self.did.append(f"add {key[1]}")

    def rows_away(self) -> set[Any]:
        return set()

    def cancel(self, key: Any) -> None:
        self.did.append(f"cancel {key[1]}")

    def step(self) -> list[Any]:
        self.did.append("step")
        self.entered.set()
        assert self.go.wait(10)
        self.go.clear()
        return []


def quiet_engine(runtime: Any, **limits: Any) -> Engine:
    session: Any = SimpleNamespace(streams=Streams(runtime), backends={}, decoder=find_method)
    return Engine(session, **limits)


def job(client: int) -> Job:
    return Job(Wanted("greedy", MethodSettings(), [], ""), Run(None, {}, 1), client, 0)  # type: ignore[arg-type]


def test_a_row_that_was_left_is_gone_before_the_next_forward() -> None:
    runtime = Recorded()
    engine = quiet_engine(runtime, max_rows=1, max_queue=5)
    for client in (1, 2):
        engine.queue([job(client)])
    engine.start()
    assert runtime.entered.wait(10)
    engine.line.far.sendall(packed("forget", 1))
    runtime.entered.clear()
    runtime.go.set()
    assert runtime.entered.wait(10)
    assert runtime.did == ["add 1", "step", "cancel 1", "add 2", "step"]
    engine.line.far.sendall(packed("halt"))
    runtime.go.set()
    engine.thread.join(10)
    assert not engine.thread.is_alive() and runtime.did[-1] == "cancel 2" and not engine.live


@pytest.mark.parametrize("busy", [False, True])
def test_an_engine_ends_with_its_server(busy: bool) -> None:
    runtime = Recorded()
    engine = quiet_engine(runtime, max_rows=1)
    for client in range(2 * busy):
        engine.queue([job(client)])
    engine.start()
    assert not busy or runtime.entered.wait(10)
    engine.line.far.close()
    runtime.go.set()
    engine.thread.join(10)
    assert not engine.thread.is_alive() and not engine.live and not engine.waiting
    assert runtime.did == (["add 1", "step", "cancel 1"] if busy else [])


def test_the_queue_is_bounded() -> None:
    with serving(Session.load(runtime=SMALL), max_rows=1, max_queue=1) as served:
        client = served.client
        streams = [client.completions.create(**ENDLESS, stream=True)]
        next(iter(streams[0]))
        waiting = threading.Thread(target=lambda: client.completions.create(**{**ENDLESS, "max_tokens": 1}))
        waiting.start()
        until(lambda: served.get("/v1/s2t/state")["queue"] == 1)
        with pytest.raises(openai.RateLimitError) as found:
            client.completions.create(**ENDLESS)
        assert int(found.value.response.headers["Retry-After"]) >= 1 and found.value.code == "rate_limit_exceeded"
        with pytest.raises(openai.RateLimitError):
            client.completions.create(**ENDLESS, n=2)
        with pytest.raises(openai.BadRequestError, match="3 answers are asked for at once, and 2 fit"):
            client.completions.create(**ENDLESS, n=3)
        streams[0].close()
        waiting.join(timeout=30)
        assert not waiting.is_alive()
        client.completions.create(**{**ENDLESS, "max_tokens": 1, "n": 2})  # one at a time, in order


@pytest.mark.parametrize("stream", [False, True])
def test_who_waits_and_hangs_up_leaves_the_queue(stream: bool) -> None:
    with serving(Session.load(runtime=SMALL), max_rows=1) as served:
        running = served.client.completions.create(**ENDLESS, stream=True)
        next(iter(running))
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(served.url + TEXT, json={**ENDLESS, "n": 5, "stream": stream}, timeout=0.5)
        until(lambda: not served.engine.waiting, 5)
        assert served.get("/v1/s2t/state")["rows"] == 1
        running.close()


def test_a_request_may_take_so_long() -> None:
    session = Session.load(runtime=SMALL)
    with serving(session, ServeConfig(port=0, request_timeout_s=0.5)) as served:
        with pytest.raises(openai.InternalServerError) as found:
            served.client.completions.create(**ENDLESS)
        assert found.value.status_code == 504 and found.value.code == "timeout"
        stream = served.client.completions.create(**ENDLESS, stream=True)
        with pytest.raises(openai.APIError, match=r"longer than 0.5 s"):
            list(stream)
        until(lambda: served.get("/v1/s2t/state")["rows"] == 0)


@pytest.mark.parametrize("patience", [30.0, 0.0])
def test_streams_end_in_good_order_when_the_server_stops(patience: float) -> None:
    serve = ServeConfig(port=0, shutdown_timeout_s=patience)
    with serving(Session.load(runtime=SMALL), serve) as served:
        body = {**ENDLESS, "max_tokens": 300, "stream": True}
        with httpx.stream("POST", served.url + TEXT, json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            served.server.should_exit = True
            until(lambda: served.engine.closing != "no")
            with pytest.raises(RequestError, match="stopping"):
                served.engine.queue([])
            events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]"
    last = json.loads(events[-2])
    assert last["choices"][0]["finish_reason"] == "length" if patience else "stopping" in last["error"]["message"]
    assert not served.engine.live


def test_a_step_that_fails_ends_who_takes_part_and_no_more(served: Served, monkeypatch: Any) -> None:
    def broken() -> None:
        monkeypatch.undo()
        raise RuntimeError("of the device")

    monkeypatch.setattr(served.engine.streams, "step", broken)
    with pytest.raises(openai.InternalServerError) as found:
        served.client.completions.create(**ENDLESS)
    assert "of the device" not in str(found.value) and found.value.code == "internal_error"
    assert served.client.completions.create(model="demo", prompt="Ida has", max_tokens=2).choices[0].text


def test_what_fits_no_memory_is_refused_before_a_stream_begins() -> None:
    with serving(Session.load(runtime=RuntimeConfig(kv_memory_gib=0.002))) as served:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="do not fit"):
                served.client.completions.create(**ENDLESS, stream=stream)
        assert served.client.completions.create(**{**ENDLESS, "max_tokens": 2}).choices


def test_a_pair_without_artefacts_serves_what_it_can() -> None:
    session = Session(slm=tiny_loaded(), runtime=SMALL)
    with pytest.raises(S2TError, match="or take another --method, of greedy, sample, maj@8"):
        Catalogue(session, ServeConfig(), MethodSettings())
    with serving(session, ServeConfig(port=0, method="greedy", model_name="tiny")) as served:
        names = [model.id for model in served.client.models.list()]
        assert names == ["tiny", "tiny:greedy", "tiny:sample", "tiny:maj@8"]
        assert served.get("/v1/s2t/examples") == {"note": "", "examples": []}
        answer = served.client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "w5 w6"}], max_tokens=4, logprobs=True
        )
        assert answer.choices[0].logprobs.content[0].token.startswith("w")
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            served.client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "w5"}, {"role": "user", "content": "w6"}]
            )
        with pytest.raises(openai.BadRequestError, match="s2t-local is not served here"):
            served.client.completions.create(model="tiny:s2t-local", prompt="w5")
