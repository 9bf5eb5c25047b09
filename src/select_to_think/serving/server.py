"""Running the application under uvicorn, beside the engine or, on Linux, in a process of its own, so that neither waits
for the other's interpreter: it stops without cutting streams off.

Non-goals: the application (`app.py`).
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from types import FrameType

import torch
import uvicorn
from starlette.types import ASGIApp

from select_to_think.config import ServeConfig
from select_to_think.serving.connections import UVICORN
from select_to_think.serving.engine import Engine
from select_to_think.serving.readers import DistantEngine
from select_to_think.structures import S2TError

CAN_PART = sys.platform == "linux"  # elsewhere a fork is not safe
LAST_WORDS_S = 5.0  # for streams to say that they were ended


def bind(serve: ServeConfig) -> socket.socket:
    """A socket at the address, on which nobody listens yet.

    Raises:
        S2TError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in serve.host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else a token waits for the last to be confirmed
    try:
        found.bind((serve.host, serve.port))
    except OSError as error:
        found.close()
        raise taken(serve, error) from error
    return found


def listen(bound: socket.socket, serve: ServeConfig) -> None:
    """Let clients come to a socket; they wait there until a server takes them.

    Raises:
        S2TError: another process listens there since it was bound.
    """
    try:
        bound.listen()
    except OSError as error:
        raise taken(serve, error) from error


def taken(serve: ServeConfig, error: OSError) -> S2TError:
    """That the address cannot be had."""
    return S2TError(f"cannot listen at {serve.host}:{serve.port} ({error.strerror}): choose another --port or --host")


def address(bound: socket.socket) -> str:
    """Where clients find a socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Takes no more requests when it stops, lets answers end for a while, and then tells the others that they do."""

    def __init__(self, app: ASGIApp, engine: DistantEngine, serve: ServeConfig) -> None:
        """Not running yet."""
        self.engine, self.patience_s = engine, serve.shutdown_timeout_s
        super().__init__(
            uvicorn.Config(
                app,
                **UVICORN,
                timeout_graceful_shutdown=int(serve.shutdown_timeout_s + LAST_WORDS_S) + 1,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in good order."""
        self.engine.refuse()
        asyncio.get_running_loop().call_later(self.patience_s, self.engine.halt)
        await super().shutdown(sockets)


def serve_apart(engine: Engine, serve: Callable[[DistantEngine], None], forked: Callable[[], None]) -> None:
    """Let `serve` run in a process of its own until it ends, and step the engine in this one; `forked` is called here
    once the other process is there.

    Signals that end a program end the server, which ends the streams in good order, and then this process.

    Raises:
        S2TError: the server failed.
    """

    def child() -> None:
        engine.line.close()
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads are not there after a fork
        torch.set_num_threads(1)
        with suppress(KeyboardInterrupt):
            serve(engine.distant)

    gc.collect()
    gc.freeze()  # what both processes have stays shared
    server = get_context("fork").Process(target=child, name="server")
    server.start()
    engine.line.far.close()
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        server.terminate()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    forked()
    engine.start()
    try:
        engine.thread.join()
        server.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for each in received:
        signal.raise_signal(each)
    if server.exitcode and not received:
        raise S2TError(f"the server's process ended with {server.exitcode}: its last lines say why")
