"""A real server in a thread, on a free port of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from openai import AsyncOpenAI, OpenAI

from select_to_think import Session
from select_to_think.config import MethodSettings, RuntimeConfig, ServeConfig
from select_to_think.serving.app import create_app
from select_to_think.serving.catalogue import Catalogue
from select_to_think.serving.engine import Engine
from select_to_think.serving.server import Server, address, bind

SMALL = RuntimeConfig(kv_memory_gib=0.05, max_wait_steps=32)


@dataclass
class Served:
    url: str
    engine: Engine
    server: Server
    thread: threading.Thread

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    @property
    def async_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60)

    def get(self, path: str) -> Any:
        return httpx.get(self.url + path, timeout=60).json()


@contextmanager
def serving(
    session: Session,
    serve: ServeConfig | None = None,
    settings: MethodSettings = MethodSettings(),
    **limits: Any,
) -> Iterator[Served]:
    """`limits` are those of the engine."""
    serve = serve or ServeConfig(port=0)
    bound = bind(serve)
    catalogue = Catalogue(session, serve, settings)
    engine = Engine(session, **limits)
    server = Server(create_app(engine.distant, catalogue, serve, settings), engine.distant, serve)
    engine.start()
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield Served(address(bound), engine, server, thread)
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive(), "the server does not end"


def until(holds: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for something that takes a moment."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.01)
