"""An engine and a server in two processes: neither waits for the other's interpreter.

The engine's process has the models; the server is forked from it before either runs. They talk over a pair of sockets,
in pickles, since both ends are this program.

Non-goals: what the server asks (`readers.py`).
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from threading import Lock, Thread
from types import FrameType
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch

from select_to_think.config import MethodSettings
from select_to_think.runs import Committed, Event, Failed, Finished
from select_to_think.serving.engine import Engine
from select_to_think.serving.errors import request_error, stopping
from select_to_think.serving.readers import Client, Closing, News, Outlet, Reader, ServingEngine
from select_to_think.serving.wanted import Prepared, Wanted
from select_to_think.session import Session
from select_to_think.structures import S2TError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CAN_PART = sys.platform == "linux"  # elsewhere a fork is not safe
LENGTH = struct.Struct("!Q")
ANSWER_SECONDS = 60.0


class Channel:
    """One end of the line."""

    def __init__(self, end: socket.socket) -> None:
        """`end` is a socket of a pair."""
        self.end, self.file, self.lock = end, end.makefile("rb"), Lock()

    def send(self, *message: Any) -> None:
        """Send a message; to nobody if the other end is gone."""
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with self.lock, suppress(OSError):
            self.end.sendall(LENGTH.pack(len(body)) + body)

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """What the other end sends, until it is gone."""
        with suppress(OSError, ValueError):
            while len(length := self.file.read(LENGTH.size)) == LENGTH.size:
                yield pickle.loads(self.file.read(LENGTH.unpack(length)[0]))  # noqa: S301 - from the process it was forked from, or its fork

    def close(self) -> None:
        """The other end's messages end here."""
        with suppress(OSError):
            self.end.shutdown(socket.SHUT_RDWR)


@dataclass(eq=False)
class DistantReader:
    """A client in the server's process."""

    number: int
    outlet: Outlet


class EngineEnd:
    """Does what the server's process asks of an engine."""

    def __init__(self, engine: Engine, channel: Channel) -> None:
        """Over a channel."""
        self.engine, self.channel = engine, channel
        self.readers: WeakValueDictionary[int, DistantReader] = WeakValueDictionary()  # they live as long as their runs

    def serve(self) -> None:
        """Until the server has gone."""
        does: dict[str, Callable[..., None]] = {
            "take": self.take,
            "forget": self.forget,
            "ask": self.ask,
            "refuse": self.engine.refuse,
            "halt": self.engine.halt,
        }
        for name, *arguments in self.channel.messages():
            does[name](*arguments)

    def take(self, number: int, wanted: Sequence[Wanted]) -> None:
        """Queue what a client wants."""
        reader = self.readers[number] = DistantReader(number, self.tell)
        try:
            self.engine.queue(self.engine.workshop.runs(wanted), reader)
        except Exception as error:
            self.tell([(reader, index, Failed(index, error)) for index in range(len(wanted))])

    def forget(self, number: int) -> None:
        """A client has left."""
        if reader := self.readers.get(number):
            self.engine.forget(reader)

    def tell(self, news: Sequence[News]) -> None:
        """Send events, in a form that can be sent."""
        self.channel.send("news", [(reader.number, index, sendable(index, event)) for reader, index, event in news])

    def ask(self, number: int, name: str, *arguments: Any) -> None:
        """Answer a question about the engine."""
        try:
            self.channel.send("answer", number, getattr(self.engine, name)(*arguments), None)
        except Exception as error:
            self.channel.send("answer", number, None, request_error(error))


def sendable(index: int, event: Event) -> Event:
    """An event that names its run by `index`, and an error as the client will be told of it."""
    if isinstance(event, Committed):
        return Committed(index, event.steps)
    return Finished(index, event.result) if isinstance(event, Finished) else Failed(index, request_error(event.error))


class DistantEngine:
    """The engine, as the server's process has it."""

    def __init__(self, session: Session, channel: Channel) -> None:
        """`session` is a copy whose models are not used."""
        self.session, self.channel = session, channel
        self.closing: Closing = "no"
        self.clients: WeakValueDictionary[int, Client] = WeakValueDictionary()
        self.asked: dict[int, Future[Any]] = {}
        self.numbers = count()

    def start(self) -> None:
        """Read what the engine sends, for the running event loop."""
        self.loop = asyncio.get_running_loop()
        Thread(target=self.read, name="engine", daemon=True).start()

    def read(self) -> None:
        """Until the engine is gone; that ends the server, if nothing else did."""
        for kind, *content in self.channel.messages():
            if kind == "news":
                self.loop.call_soon_threadsafe(self.deliver, *content)
            else:
                number, value, error = content
                future = self.asked.pop(number)
                future.set_result(value) if error is None else future.set_exception(error)
        ended, self.closing = self.closing == "stopped", "stopped"
        for future in list(self.asked.values()):
            future.set_exception(stopping())
        with suppress(RuntimeError):  # the event loop is closed
            self.loop.call_soon_threadsafe(
                self.deliver, [(number, 0, Failed(0, stopping())) for number in list(self.clients)]
            )
        if not ended:
            os.kill(os.getpid(), signal.SIGTERM)

    def deliver(self, news: Sequence[tuple[int, int, Event]]) -> None:
        """In the event loop."""
        for number, index, event in news:
            if client := self.clients.get(number):
                client.receive(index, event)

    def take(self, wanted: Sequence[Wanted]) -> Client:
        """Queue what a client wants; what is refused fails. Raises RequestError if the server stops (503)."""
        if self.closing != "no":
            raise stopping()
        client = Client(self, self.loop, open=len(wanted), number=next(self.numbers))
        self.clients[client.number] = client
        self.channel.send("take", client.number, wanted)
        return client

    def forget(self, reader: Reader) -> None:
        """Cancel what a client still waits for."""
        assert isinstance(reader, Client)
        self.channel.send("forget", reader.number)

    def ask(self, name: str, *arguments: Any) -> Any:
        """An answer of the engine; not to be waited for in the event loop."""
        number, future = next(self.numbers), Future[Any]()
        self.asked[number] = future
        self.channel.send("ask", number, name, *arguments)
        return future.result(ANSWER_SECONDS)

    def prepared(self, method: str, settings: MethodSettings) -> Prepared:
        """As `Engine.prepared`. Raises RequestError where this pair cannot serve the settings."""
        found: Prepared = self.ask("prepared", method, settings)
        return found

    def state(self) -> dict[str, int | float]:
        """As `Engine.state`."""
        found: dict[str, int | float] = self.ask("state")
        return found

    def metrics(self) -> list[Metric]:
        """As `Engine.metrics`."""
        found: list[Metric] = self.ask("metrics")
        return found

    def refuse(self) -> None:
        """Take no more requests."""
        self.closing = "refusing"
        self.channel.send("refuse")

    def halt(self) -> None:
        """End soon."""
        self.closing = "stopped"
        self.channel.send("halt")

    def stop(self) -> None:
        """End."""
        self.halt()
        self.channel.close()


def serve_apart(engine: Engine, serve: Callable[[ServingEngine], None], forked: Callable[[], None]) -> None:
    """Let `serve` run in a process of its own until it ends, and step the engine in this one; `forked` is called here
    once the other process is there.

    Signals that end a program end the server, which ends the streams in good order, and then this process.

    Raises:
        S2TError: the server failed.
    """
    ours, theirs = socket.socketpair()

    def child() -> None:
        ours.close()
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads are not there after a fork
        torch.set_num_threads(1)
        with suppress(KeyboardInterrupt):
            serve(DistantEngine(engine.session, Channel(theirs)))

    gc.collect()
    gc.freeze()  # what both processes have stays shared
    server = get_context("fork").Process(target=child, name="server")
    server.start()
    theirs.close()
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        server.terminate()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    forked()
    engine.start()
    try:
        EngineEnd(engine, Channel(ours)).serve()
        engine.stop()
        server.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for each in received:
        signal.raise_signal(each)
    if server.exitcode and not received:
        raise S2TError(f"the server's process ended with {server.exitcode}: its last lines say why")
