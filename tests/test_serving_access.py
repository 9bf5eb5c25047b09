"""Who gets past the gate of a server, and what the log says of it. No models here: the application is a few routes."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from select_to_think.serving import connections
from select_to_think.serving.access import SECURITY_HEADERS, ApiKeys, Gate, Visit, guarded
from select_to_think.serving.connections import JsonLines, TimedProtocol
from select_to_think.serving.settings import AccessConfig
from select_to_think.structures import S2TError
from serve_fixtures import serving

KEYS, NO_KEYS = ApiKeys(["first-key", "second-key"]), ApiKeys([])
SECRET = "nobody may read this prompt"


async def echo(request: Request) -> JSONResponse:
    body = await request.body()
    request.state.model, request.state.usage = "demo:greedy", lambda: {"prompt_tokens": 7, "completion_tokens": 3}
    return JSONResponse({"bytes": len(body)})


async def crash(request: Request) -> JSONResponse:
    raise ValueError(f"about {SECRET}")


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("a page", headers={"content-security-policy": "default-src 'none'"})


async def stream(request: Request) -> StreamingResponse:
    async def chunks() -> Any:
        for _ in range(2000):
            yield b"x" * 65536

    return StreamingResponse(chunks())


def app() -> Starlette:
    """Routes like those of the server, without one."""
    return Starlette(
        routes=[
            Route("/", page),
            Route("/page/{name}", page),
            Route("/health", page),
            Route("/v1/models", page),
            Route("/metrics", page),
            Route("/v1/chat/completions", echo, methods=["POST"]),
            Route("/crash", crash, methods=["POST"]),
            Route("/stream", stream),
        ]
    )


def client(
    config: AccessConfig = AccessConfig(),
    *,
    host: str = "127.0.0.1",
    keys: ApiKeys = NO_KEYS,
    finished: Callable[[Visit], None] = lambda visit: None,
    inner: ASGIApp | None = None,
) -> httpx.AsyncClient:
    outer: Any = guarded(inner or app(), config, host, keys, finished)
    return httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://127.0.0.1:8000")


def ask(client: httpx.AsyncClient, method: str, path: str, **options: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        async with client:
            return await client.request(method, path, **options)

    return asyncio.run(go())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", ["first-key", "second-key"])
def test_every_key_opens(key: str) -> None:
    assert ask(client(keys=KEYS), "GET", "/v1/models", headers=bearer(key)).status_code == 200
    assert ask(client(keys=KEYS), "GET", "/v1/models", headers={"Authorization": f"bearer {key}"}).status_code == 200


WRONG = [{}, bearer(""), bearer("first-ke"), bearer("first-key2"), bearer("FIRST-KEY"), {"Authorization": "first-key"}]


@pytest.mark.parametrize("headers", [*WRONG, {"Authorization": "Basic first-key"}, {"Authorization": b"Bearer \xff"}])
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/chat/completions", "/no/such/path", "/page"])
def test_no_key_or_a_wrong_one_learns_nothing(path: str, headers: Any) -> None:
    method = "POST" if "completions" in path else "GET"
    refused = ask(client(keys=KEYS), method, path, headers=headers)
    nothing = ask(client(keys=KEYS), "GET", "/v1/models")
    assert refused.status_code == 401 and refused.json() == nothing.json()
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert refused.headers["www-authenticate"] == "Bearer"
    assert not any(word in refused.text for word in ("first", "second", "wrong", "missing"))


def test_health_and_the_files_of_the_page_need_no_key() -> None:
    for path in ("/health", "/", "/page/page.js"):
        assert ask(client(keys=KEYS), "GET", path).status_code == 200
    assert ask(client(keys=KEYS), "POST", "/page/page.js").status_code == 401


def test_all_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: seen.append((a, b)) or real(a, b))
    assert KEYS.accept("Bearer first-key") and len(seen) == 2
    assert not KEYS.accept("Bearer x") and len(seen) == 4
    assert {len(text) for pair in seen for text in pair} == {32}


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nalpha\n\n  beta \n")
    keys = ApiKeys.load(file, {"S2T_API_KEYS": "gamma, delta"})
    assert all(keys.accept(f"Bearer {key}") for key in ("alpha", "beta", "gamma", "delta"))
    assert not keys.accept("Bearer ") and not keys.accept("Bearer # ours") and not keys.accept("Bearer gamma,")
    assert "alpha" not in repr(vars(keys))
    assert ApiKeys.load(None, {}).accept("")


@pytest.mark.parametrize(
    ("content", "environment", "reason"),
    [
        (b"\n# none\n", {}, "holds no API key"),
        (None, {"S2T_API_KEYS": " , "}, "holds no API key"),
        (b"good\nnot good\n", {}, "API key 2 of"),
        (b"\xff\xfe\n", {}, "API key 1 of"),
    ],
)
def test_a_source_without_usable_keys_is_refused_and_quotes_none(
    tmp_path: Path, content: bytes | None, environment: dict[str, str], reason: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(S2TError, match=reason) as refused:
        ApiKeys.load(file if content is not None else None, environment)
    assert "good" not in str(refused.value)


def test_a_key_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(S2TError, match="cannot read"):
        ApiKeys.load(tmp_path / "none", {})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cors_origin": "https://a.org/x"}, "no origin"),
        ({"cors_origin": "*"}, "no origin"),
        ({"cors_origin": "https://["}, "no origin"),
        ({"allowed_host": "http://a.org"}, "no host name"),
        ({"allowed_host": "*.org"}, "no host name"),
        ({"max_body_mib": 0}, "max_body_mib"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(S2TError, match=words):
        AccessConfig(**settings)


# Bodies


async def pieces(count: int, size: int, sent: list[int]) -> Any:
    for _ in range(count):
        sent.append(size)
        yield b"x" * size


def test_a_large_body_is_refused_before_it_is_read() -> None:
    config = AccessConfig(max_body_mib=0.01)
    limit = int(0.01 * 2**20)
    assert ask(client(config), "POST", "/v1/chat/completions", content=b"x" * limit).json() == {"bytes": limit}
    refused = ask(client(config), "POST", "/v1/chat/completions", content=b"x" * (limit + 1))
    assert refused.status_code == 413 and refused.json()["error"]["code"] == "body_too_large"
    assert refused.headers["connection"] == "close"
    sent: list[int] = []
    chunked = ask(client(config), "POST", "/v1/chat/completions", content=pieces(1000, 1024, sent))
    assert chunked.status_code == 413
    assert sum(sent) <= limit + 2 * 1024
    no_number = {"content-length": "-1"}
    assert ask(client(config), "POST", "/v1/chat/completions", headers=no_number, content=b"x").status_code == 413


def test_a_body_that_drips_is_cut_off() -> None:
    async def never_ending() -> Any:
        while True:
            yield b"x"
            await asyncio.sleep(0.02)

    gate = Gate(app(), AccessConfig(), "127.0.0.1", NO_KEYS)
    gate.body_seconds = 0.2
    start = time.perf_counter()
    transport: Any = httpx.ASGITransport(gate)  # type: ignore[arg-type]
    slow = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
    refused = ask(slow, "POST", "/v1/chat/completions", content=never_ending())
    assert refused.status_code == 408 and refused.json()["error"]["code"] == "request_timeout"
    assert time.perf_counter() - start < 2


def test_openai_clients_get_the_errors_that_they_know() -> None:
    config = AccessConfig(max_body_mib=0.01)

    def refused(key: str, text: str) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as error:
            openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0).chat.completions.create(
                model="m", messages=[{"role": "user", "content": text}]
            )
        return error.value

    with serving(guarded(app(), config, "127.0.0.1", KEYS)) as port:
        wrong = refused("wrong", "hello")
        assert isinstance(wrong, openai.AuthenticationError) and wrong.code == "invalid_api_key"
        large = refused("first-key", "x" * 10_000_000)
        assert large.status_code == 413 and large.code == "body_too_large" and large.request_id
        after = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", headers=bearer("first-key"), content=b"abc")
        assert after.json() == {"bytes": 3}


# Hosts and origins


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:9", "LOCALHOST:1"])
def test_a_local_server_answers_to_its_own_names(host: str) -> None:
    assert ask(client(), "GET", "/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", "[", "", "a@localhost.x"]
)
def test_a_local_server_answers_to_no_other_name(host: str) -> None:
    refused = ask(client(), "GET", "/v1/models", headers={"host": host})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "invalid_host"
    named = AccessConfig(allowed_host="evil.example")
    open_to_all = ask(client(host="0.0.0.0"), "GET", "/v1/models", headers={"host": host})
    assert open_to_all.status_code == 200
    assert (ask(client(named), "GET", "/v1/models", headers={"host": host}).status_code == 200) == (
        host.partition(":")[0] == "evil.example"
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "https://elsewhere.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "https://friend.example", "sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_pages_of_others_cannot_ask(headers: dict[str, str], status: int) -> None:
    answer = ask(client(), "POST", "/v1/chat/completions", content=b"{}", headers=headers)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_pages_of_an_origin_that_was_named_can() -> None:
    config = AccessConfig(cors_origin="https://friend.example, https://other.example")
    friend = {"origin": "https://friend.example", "sec-fetch-site": "cross-site"}
    asked = {
        **friend,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, x-stainless-os",
    }
    before = ask(client(config, keys=KEYS), "OPTIONS", "/v1/chat/completions", headers=asked)
    assert before.status_code == 200 and before.headers["access-control-allow-origin"] == "https://friend.example"
    answer = ask(client(config), "POST", "/v1/chat/completions", content=b"{}", headers=friend)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://friend.example"
    stranger = {**asked, "origin": "https://elsewhere.example"}
    assert ask(client(config), "OPTIONS", "/v1/chat/completions", headers=stranger).status_code == 400
    assert ask(client(), "OPTIONS", "/v1/chat/completions", headers=asked).status_code == 405


# Ids, headers, log


def test_ids_are_taken_over_if_they_are_harmless() -> None:
    sent: list[Visit] = []
    given = {"x-request-id": "abc-1.2_3"}
    answer = ask(client(finished=sent.append), "GET", "/v1/models", headers=given)
    assert answer.headers["x-request-id"] == sent[0].id == "abc-1.2_3"
    for bad in ("", "a b", "x" * 129, '"', "a\tb"):
        made = ask(client(), "GET", "/v1/models", headers={"x-request-id": bad}).headers["x-request-id"]
        assert made.startswith("req_") and len(made) == 36


def test_every_answer_carries_the_security_headers() -> None:
    for method, path, status in [("GET", "/health", 200), ("GET", "/none", 404), ("POST", "/crash", 500)]:
        answer = ask(client(), method, path)
        assert answer.status_code == status
        expected = {**SECURITY_HEADERS, **({"content-security-policy": "default-src 'none'"} if status == 200 else {})}
        assert {name: answer.headers[name] for name in SECURITY_HEADERS} == expected
    policy = SECURITY_HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy


class Lines(logging.Handler):
    """What the server would write to stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(self.format(record))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text]


@pytest.fixture
def log() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("select_to_think.serving")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)


def test_the_log_has_one_line_a_request_without_its_prompt(log: Lines) -> None:
    ask(client(keys=KEYS), "POST", f"/v1/chat/completions?q={SECRET}", content=SECRET, headers=bearer("first-key"))
    ask(client(keys=KEYS), "POST", "/v1/chat/completions", content=SECRET, headers=bearer("second-keyy"))
    ask(client(), "POST", "/crash", content=SECRET)
    ask(client(), "GET", "/evil%0d%0aline" + "x" * 500)
    assert len(log.lines) == 4 and all("\n" not in line and "\r" not in line for line in log.text)
    fine, wrong, crashed, odd = log.lines
    assert fine["status"] == 200 and fine["model"] == "demo:greedy" and fine["completion_tokens"] == 3
    assert fine["method"] == "POST" and fine["path"] == "/v1/chat/completions" and 0 <= fine["seconds"] < 5
    assert wrong["status"] == 401 and "model" not in wrong
    assert crashed["status"] == 500 and crashed["exception"] == "ValueError" and crashed["level"] == "error"
    assert any(place.endswith(" crash") for place in crashed["stack"])
    assert len(odd["path"]) == 200
    for secret in (SECRET, "first-key", "second-key"):
        assert not any(secret in line for line in log.text)


def test_prompts_are_logged_if_asked(log: Lines) -> None:
    ask(client(AccessConfig(log_prompts=True)), "POST", "/v1/chat/completions", content=f"{SECRET} \u2028".encode())
    assert log.lines[0]["body"] == f"{SECRET} \u2028"


def test_errors_of_the_web_server_are_lines_too(log: Lines) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        logging.getLogger("select_to_think.serving").error("Exception in ASGI application\n", exc_info=error)
    assert log.lines[0]["exception"] == "ValueError" and SECRET not in log.text[0]
    assert connections.LOG_CONFIG["loggers"].keys() == {"uvicorn", "select_to_think.serving"}


# Connections


def exchange(port: int, *sent: bytes, pause: float = 0.0) -> bytes:
    """What comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with suppress(OSError):
            for piece in sent:
                connection.sendall(piece)
                time.sleep(pause)
        data = b""
        with suppress(ConnectionResetError):
            while more := connection.recv(65536):
                data += more
        return data


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    impatient = type("Impatient", (TimedProtocol,), {"head_seconds": 0.4, "stalled_seconds": 1.0})
    gate = Gate(app(), AccessConfig(), "127.0.0.1", NO_KEYS)
    gate.body_seconds = 0.4
    with serving(gate, http=impatient) as port:  # type: ignore[arg-type]
        yield port


def lives(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200


def error_of(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("before", [b"", GET + b"\r\n"])
def test_heads_that_drip_are_cut_off(port: int, before: bytes) -> None:
    drips = [before + GET, *[b"X-A: b\r\n"] * 200]
    start = time.perf_counter()
    answer = exchange(port, *drips, pause=0.02)
    assert time.perf_counter() - start < 5
    status, error = error_of(answer[answer.rindex(b"HTTP/1.1") :])
    assert status == 408 and error["code"] == "request_timeout"
    assert answer.count(b"HTTP/1.1") == (2 if before else 1)
    assert lives(port)


def test_connections_that_say_nothing_are_closed(port: int) -> None:
    start = time.perf_counter()
    assert exchange(port) == b"" and time.perf_counter() - start < 5


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/no/such/path"])
def test_bodies_that_drip_are_cut_off(port: int, path: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    start = time.perf_counter()
    status, error = error_of(exchange(port, head, *[b"x"] * 200, pause=0.02))
    assert status == 408 and error["code"] == "request_timeout" and time.perf_counter() - start < 8
    assert lives(port)


def test_a_refused_request_cannot_hold_its_connection(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: evil\r\nContent-Length: 1000\r\n\r\n"
    start = time.perf_counter()
    status, error = error_of(exchange(port, head, *[b"x"] * 500, pause=0.01))
    assert status == 400 and error["code"] == "invalid_host" and time.perf_counter() - start < 6.5


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        GET + b"X-Long: " + b"y" * 1_000_000 + b"\r\n\r\n",
        GET + b"X-Many: y\r\n" * 100_000 + b"\r\n",
        GET + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["nonsense", "tls", "long header", "many headers", "two lengths", "no host", "bad chunk"],
)
def test_bytes_that_are_no_request_get_a_readable_error(port: int, bytes_sent: bytes) -> None:
    status, error = error_of(exchange(port, bytes_sent))
    assert status == 400 and error["code"] == "invalid_http" and error["type"] == "invalid_request_error"
    assert lives(port)


def test_a_reader_who_stops_reading_is_dropped(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(2.0)
        received = 0
        with suppress(ConnectionResetError):
            while more := connection.recv(1 << 20):
                received += len(more)
    assert 0 < received < 2000 * 65536
    assert lives(port)


def test_a_reader_who_pauses_gets_all(port: int) -> None:
    received, pauses = 0, 3
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while more := connection.recv(1 << 20):
            received += len(more)
            if received > (4 - pauses) * 20_000_000 and pauses:
                time.sleep(0.3)
                pauses -= 1
    assert received > 2000 * 65536 and not pauses
