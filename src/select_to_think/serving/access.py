"""Who may ask, how much, and what is written down of it: the layers around the application.

From outside inwards: `Recorder` gives every request an id, security headers and one line in the log; CORS, if any
origin is allowed; `Gate` refuses wrong hosts, other sites' pages, wrong keys and bodies that are too large or too slow.
What the application sees has been read to its end.

Non-goals: routes and their errors (`app.py`), time-outs of connections (`connections.py`), TLS (a proxy's work).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import re
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from random import getrandbits
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from select_to_think.files import read_bytes
from select_to_think.serving.errors import RequestError, request_error
from select_to_think.serving.settings import AccessConfig
from select_to_think.structures import S2TError

KEYS_VARIABLE = "S2T_API_KEYS"
KEYLESS = ("/health",)
PAGE = ("/", "/favicon.ico")  # and what lies under PAGE_FOLDER: files that tell nothing
PAGE_FOLDER = "/page/"
BODY_SECONDS = 30.0  # in which a request must have arrived
LONGEST_LOGGED_PATH = 200
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
API_KEY = re.compile(r"[!-~]+")
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
log = logging.getLogger("select_to_think.serving")


@dataclass(frozen=True)
class Visit:
    """What is known of a request when it has ended. `facts`: what the layers within add, such as model and tokens."""

    id: str
    method: str
    path: str
    status: int
    seconds: float
    complete: bool  # whether the answer was sent to its end
    route: str  # the path with names in place of values; empty for none of ours
    facts: Mapping[str, Any]


class ApiKeys:
    """The keys that are accepted, kept as digests, so that neither their length nor their text can leak."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Without any key everybody is welcome."""
        self.digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    @classmethod
    def load(cls, file: Path | None, environment: Mapping[str, str] = os.environ) -> ApiKeys:
        """The keys of a file (one a line; empty lines and those that begin with # are none) and of S2T_API_KEYS.

        Raises:
            S2TError: a source that is named and holds no key, or what cannot stand in a header.
        """
        sources: dict[str, list[str]] = {}
        if file is not None:
            lines = read_bytes(file, remedy="write one API key a line").decode(errors="replace").splitlines()
            sources[str(file)] = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if KEYS_VARIABLE in environment:
            sources[KEYS_VARIABLE] = environment[KEYS_VARIABLE].replace(",", " ").split()
        for source, keys in sources.items():
            if not keys:
                raise S2TError(f"{source} holds no API key: write one, or leave it out to serve everybody")
            for number, key in enumerate(keys, 1):
                if not API_KEY.fullmatch(key):
                    raise S2TError(f"API key {number} of {source} holds blanks or is not ASCII: choose another one")
        return cls(key for keys in sources.values() for key in keys)

    def accept(self, authorization: str) -> bool:
        """Whether an Authorization header carries one of the keys; all are compared, each in constant time."""
        scheme, _, given = authorization.partition(" ")
        digest = hashlib.sha256(given.strip().encode()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self.digests]
        return not matches or (any(matches) and scheme.lower() == "bearer")


class Gate:
    """Refuses what must not reach the application, and hands on the rest with its whole body."""

    def __init__(self, app: ASGIApp, config: AccessConfig, host: str, keys: ApiKeys) -> None:
        """In front of `app`, which listens at `host`."""
        self.app, self.config, self.keys = app, config, keys
        self.hosts = allowed_hosts(config, host)
        self.origins = config.origins
        self.most_bytes, self.body_seconds = int(config.max_body_mib * (1 << 20)), BODY_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or call the application."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        try:
            self.check(scope["method"], scope["path"], headers)
            body = await self.read(headers, receive)
        except RequestError as error:
            response = error.response
            response.headers["connection"] = "close"  # what was not read is no next request
            return await response(scope, receive, send)
        if body is None:
            return None
        if self.config.log_prompts and body:
            scope.setdefault("state", {})["body"] = body.decode("utf-8", "replace")
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        await self.app(scope, replay, send)

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Host, origin and key, in this order. Raises RequestError."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts and host_name(host) not in self.hosts:
            message = "the Host header names another server: --allowed-host NAME accepts that name"
            raise RequestError(message, 400, code="invalid_host")
        if method not in ("GET", "HEAD", "OPTIONS") and origin not in self.origins and from_elsewhere(headers):
            message = "pages of other origins may not call this server: see --cors-origin"
            raise RequestError(message, 403, code="cross_origin")
        open_page = method in ("GET", "HEAD") and (path in PAGE or path.startswith(PAGE_FOLDER))
        if not (path in KEYLESS or open_page or self.keys.accept(headers.get("authorization", ""))):
            message = "this needs a valid API key: send Authorization: Bearer KEY"
            raise RequestError(message, 401, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def read(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body, or None if the client left. Raises RequestError for one that is too large or drips."""
        most = f"{self.config.max_body_mib:g} MiB"
        too_large = RequestError(f"the body is larger than {most}: send less at once", 413, code="body_too_large")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most_bytes:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.body_seconds):
                while (message := await receive())["type"] == "http.request":
                    body += message.get("body", b"")
                    if len(body) > self.most_bytes:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            late = f"the body did not arrive in {self.body_seconds:g} s: send it faster"
            raise RequestError(late, 408, code="request_timeout") from None
        return None


def allowed_hosts(config: AccessConfig, host: str) -> set[str]:
    """The names in a Host header that are accepted; none: every name.

    A server that listens to its own machine only would otherwise answer pages whose name a foreign DNS server has
    turned to 127.0.0.1.
    """
    return {*config.hosts, *(LOOPBACK_NAMES | {host.lower()} if is_loopback(host) else ())}


def is_loopback(host: str) -> bool:
    """Whether an address or name is that of this machine, seen from itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_name(header: str) -> str | None:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def from_elsewhere(headers: Headers) -> bool:
    """Whether a browser says that another site's page makes this request; other clients say nothing of the kind."""
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


@dataclass
class Recorder:
    """Gives a request its id and its answer the security headers; tells the log, and `finished`, how it ended.

    The application may leave the `model` and a function `usage` in the state of a request, for the log.
    """

    app: ASGIApp
    finished: Callable[[Visit], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; what it raises is an answer with status 500 and a line in the log."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status, complete = time.perf_counter(), 0, False
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if REQUEST_ID.fullmatch(given) else f"req_{getrandbits(128):032x}"
        state, failure = scope.setdefault("state", {}), None
        state["request_id"] = name

        async def pass_on(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                known = {header for header, _ in message["headers"]}
                headers = {"x-request-id": name, **SECURITY_HEADERS}.items()
                own = [(header.encode(), value.encode()) for header, value in headers]
                message["headers"] = [*message["headers"], *(pair for pair in own if pair[0] not in known)]
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, pass_on)
        except Exception as error:
            failure = error
            if not status:
                await request_error(error).response(scope, receive, pass_on)
        finally:
            route, seconds = getattr(scope.get("route"), "path", ""), time.perf_counter() - start
            facts = told(state, failure)
            visit = Visit(name, scope["method"], scope["path"], status, seconds, complete, route, facts)
            self.finished(visit)
            write(visit)


def told(state: Mapping[str, Any], failure: Exception | None) -> dict[str, Any]:
    """What the log says of a request besides its outside."""
    facts = {name: state[name] for name in ("model", "body") if name in state}
    if "usage" in state:
        usage = state["usage"]()
        facts |= {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
    if failure is not None:
        facts |= {"exception": type(failure).__name__, "stack": stack(failure)}
    return facts


def stack(error: BaseException) -> list[str]:
    """Where an error was raised. Its message is left out: it may quote a prompt."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def write(visit: Visit) -> None:
    """One line about a request."""
    line = {
        "id": visit.id,
        "method": visit.method,
        "path": visit.path[:LONGEST_LOGGED_PATH],
        "status": visit.status,
        "seconds": round(visit.seconds, 6),
        "complete": visit.complete,
        **visit.facts,
    }
    log.log(logging.ERROR if "exception" in line else logging.INFO, "request", extra={"facts": line})


def guarded(
    app: ASGIApp,
    config: AccessConfig,
    host: str,
    keys: ApiKeys,
    finished: Callable[[Visit], None] = lambda visit: None,
) -> ASGIApp:
    """`app`, which listens at `host`, with all layers around it."""
    inner: ASGIApp = Gate(app, config, host, keys)
    if config.origins:
        inner = CORSMiddleware(
            inner,
            allow_origins=config.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # clients send some of their own; the key is the guard
            expose_headers=["x-request-id", "retry-after"],
        )
    return Recorder(inner, finished)
