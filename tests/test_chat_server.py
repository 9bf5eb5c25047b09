"""`s2t chat --url`: the same conversation with a server, and what is said where there is none, or another one."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from select_to_think.cli import app
from select_to_think.cli.chat.local import LocalChat
from select_to_think.cli.chat.remote import RemoteChat, request
from select_to_think.config import DecodeConfig, MentorConfig, MethodSettings, SelectConfig, ServeConfig
from select_to_think.runtime import Runtime
from select_to_think.serving.app import create_app
from select_to_think.serving.catalogue import Catalogue
from select_to_think.serving.engine import Engine
from select_to_think.serving.server import Server, address, bind
from select_to_think.session import Session
from select_to_think.structures import S2TError

QUESTION = "Today Ida has 27 keys. Ida lends 5 keys. Kira has 48 keys. Ida lends 7 keys. How many keys does Ida have?"
ASKED = [("user", QUESTION)]


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.load()


@pytest.fixture(scope="module")
def engine(session: Session) -> Engine:
    """Steps `session` for a server."""
    return Engine(session)


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    """The address of that server."""
    serve = ServeConfig(port=0)
    bound = bind(serve)
    catalogue = Catalogue(engine.session, serve, MethodSettings())
    server = Server(create_app(engine.distant, catalogue, serve), engine.distant, serve)
    engine.start()
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    yield address(bound)
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("method", ["greedy", "s2t-local", "s2t", "maj@2", "mentor-free"])
def test_a_server_answers_as_the_pair_itself_does(session: Session, url: str, method: str) -> None:
    settings = MethodSettings(DecodeConfig(max_new_tokens=40), SelectConfig(trigger_budget=0.1), alternatives=3)
    with closing(LocalChat(session).reply(ASKED, method, settings)) as local:
        *steps, ending = local
    with closing(RemoteChat(url, None).reply(ASKED, method, settings)) as remote:
        *others, other = remote
    if method != "maj@2":  # the server draws a seed of its own where none is named
        assert [(s["token"], s["text_added"], s["fired"]) for s in steps] == [
            (s["token"], s["text_added"], s["fired"]) for s in others
        ]
        assert [s["alternatives"][0]["id"] for s in steps] == [s["alternatives"][0]["id"] for s in others]
    assert set(steps[0]) == set(others[0]) and other.method == method and other.finish_reason == "stop"
    assert (other.trigger, other.threshold) == (ending.trigger, ending.threshold)
    assert other.counts.keys() == ending.counts.keys()


def test_what_the_server_offers_is_offered(session: Session, url: str) -> None:
    chat, local = RemoteChat(f"{url}/v1/", None), LocalChat(session)
    assert chat.methods() == local.methods() and (chat.name, chat.default) == ("demo", "s2t-local")
    assert [each.domain for each in chat.examples()[:4]] == ["arithmetic", "facts", "logic", "arithmetic"]
    assert set(chat.examples()) <= set(local.examples())


def test_piped_through_a_server(url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\n/why 4\n"))
    assert app.main(["chat", "--url", url]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("First Ida has 27 - 5 = 22 keys. Ida has 22 - 7 = 15 keys. The answer is 15.\n")
    assert "so it triggered; chosen by the scorer" in out and "one kind of question" in err


def test_refusals_of_the_server_are_told(url: str) -> None:
    chat = RemoteChat(url, None)
    for turns, settings, needle in (
        (ASKED, MethodSettings(DecodeConfig(max_new_tokens=100_000)), "context"),
        ([("user", " ")], MethodSettings(), "empty"),
        (ASKED, MethodSettings(select=SelectConfig(trigger="kl")), "kl trigger"),
    ):
        with pytest.raises(S2TError, match=needle), closing(chat.reply(turns, None, settings)) as parts:
            list(parts)


def test_an_answer_that_is_left_is_left_by_the_server_too(
    url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, backend, noticed = Runtime.step, engine.session.backends["slm"], threading.Event()
    before = backend.forwards

    def gated(self: Runtime) -> Any:
        if backend.forwards - before == 3:
            assert noticed.wait(60)
        return step(self)

    monkeypatch.setattr(Runtime, "step", gated)
    with closing(RemoteChat(url, None).reply(ASKED, "greedy", MethodSettings())) as parts:
        next(parts)
    for _ in range(6000):
        if not engine.distant.clients:
            break
        time.sleep(0.01)
    noticed.set()
    while engine.live:
        time.sleep(0.01)
    assert backend.forwards - before <= 4


def test_only_what_was_chosen_is_sent() -> None:
    assert request(ASKED, "s2t", MethodSettings()) == {
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "s2t": {"method": "s2t", "trace": True, "alternatives": 0},
    }
    named = request(ASKED, "s2t", MethodSettings(), {"trigger_budget"})["s2t"]
    assert named["trigger_budget"] == SelectConfig().trigger_budget and "candidates" not in named
    decode = DecodeConfig(max_new_tokens=7, seed=3, top_p=0.5, on_llm_failure="continue")  # that is the server's choice
    select = SelectConfig(trigger="margin", candidates=4)
    sent = request(ASKED, "s2t", MethodSettings(decode, select, MentorConfig(consult_rate=0.5), alternatives=2))
    assert (sent["max_tokens"], sent["seed"], sent["top_p"]) == (7, 3, 0.5) and "temperature" not in sent
    assert sent["s2t"] == {
        "method": "s2t",
        "trace": True,
        "alternatives": 2,
        "trigger": "margin",
        "candidates": 4,
        "consult_rate": 0.5,
    }


MODELS = {"data": [{"id": "m", "s2t": {"method": "greedy", "help": "h", "default": True}}]}
NO_EXAMPLES = {"note": "", "examples": []}
CHUNK = {"choices": [{"finish_reason": None, "delta": {}, "s2t": {"steps": []}}]}


@contextmanager
def odd_server(models: Any = MODELS, stream: Sequence[str] = (), status: int = 200) -> Iterator[str]:
    """A server that says what it is told to; bytes of a stream go out as they are."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = models if self.path == "/v1/models" else NO_EXAMPLES
            self.say(told if isinstance(told, bytes) else json.dumps(told).encode())

        def do_POST(self) -> None:
            self.say("".join(f"{line}\n\n" for line in stream).encode())

        def say(self, body: bytes) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("settings", "needle"),
    [
        ({"models": b"<html>"}, "not what `s2t serve` says"),
        ({"models": {"data": []}}, "not what `s2t serve` says"),
        ({"models": {"data": [{"id": "gpt"}]}}, "not what `s2t serve` says"),
        ({"models": [1]}, "not what `s2t serve` says"),
        ({"models": b"<html>", "status": 502}, "answered 502"),
        ({"models": {"error": {"message": "Incorrect API key"}}, "status": 401}, "Incorrect API key .*S2T_API_KEY"),
        ({"stream": []}, "broke off"),
        ({"stream": [f"data: {json.dumps(CHUNK)}"]}, "broke off"),
        ({"stream": ['data: {"error": {"message": "it broke"}}']}, "it broke"),
        ({"stream": ["data: {oops"]}, "not what `s2t serve` says"),
        ({"stream": ["data: [DONE]"]}, "not what `s2t serve` says"),
        ({"stream": ["data: 7", "data: [DONE]"]}, "not what `s2t serve` says"),
    ],
)
def test_odd_servers_are_told_of_in_a_line(settings: dict[str, Any], needle: str) -> None:
    with odd_server(**settings) as url, pytest.raises(S2TError, match=needle) as found:
        chat = RemoteChat(url, "key")
        assert not chat.examples()
        with closing(chat.reply(ASKED, None, MethodSettings())) as parts:
            list(parts)
    assert "\n" not in str(found.value)


def test_the_key_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    get = httpx.Client.get
    monkeypatch.setattr(
        httpx.Client, "get", lambda self, path: (seen.append(self.headers.get("authorization")), get(self, path))[1]
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with odd_server() as url:
        monkeypatch.setenv("S2T_API_KEY", "secret")
        assert app.main(["chat", "--url", url]) == 0
        monkeypatch.delenv("S2T_API_KEY")
        assert app.main(["chat", "--url", url]) == 0
    assert seen == ["Bearer secret"] * 2 + [None] * 2
