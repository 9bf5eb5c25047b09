"""The engine as a server has it, over a line, and the clients who wait for what it writes; all in one event loop.

Non-goals: stepping (`engine.py`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, cast

from select_to_think.config import MentorConfig, SelectConfig
from select_to_think.serving.errors import ClientGone, stopping
from select_to_think.serving.line import packed, unpacked
from select_to_think.serving.wanted import REMEMBERED, News, Prepared, Wanted, Written
from select_to_think.session import Session

CHUNK_SECONDS = 0.03  # between two awakenings of a client, at least: a person sees no pause, and chunks cost time
ANSWER_SECONDS = 60.0
Closing = Literal["no", "refusing", "stopped"]


class DistantEngine(asyncio.Protocol):
    """An engine at the other end of a line."""

    def __init__(self, session: Session, end: socket.socket) -> None:
        """`session` is the engine's, or a copy of it whose models are not used."""
        self.session, self.end = session, end
        self.closing: Closing = "no"
        self.loop: asyncio.AbstractEventLoop | None = None
        self.transport: asyncio.WriteTransport | None = None
        self.unsent, self.received = bytearray(), bytearray()
        self.clients: dict[int, Client] = {}
        self.asked: dict[int, asyncio.Future[Any]] = {}
        self.known: dict[tuple[str, SelectConfig, MentorConfig], Prepared] = {}
        self.numbers = count()

    def start(self) -> None:
        """Let the running event loop talk with the engine; what is said before it does waits."""
        if self.loop is None:
            self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
            connect = self.loop.create_connection if sys.platform == "win32" else self.loop.create_unix_connection
            self.connecting = self.loop.create_task(connect(lambda: self, sock=self.end))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.transport.write(bytes(self.unsent))

    def data_received(self, data: bytes) -> None:
        self.received += data
        for kind, *content in unpacked(self.received):
            getattr(self, kind)(*content)

    def connection_lost(self, error: Exception | None) -> None:
        """The engine is gone; that ends the server, if nothing else did."""
        ended, self.closing = self.closing == "stopped", "stopped"
        for future in self.asked.values():
            if not future.done():
                future.set_exception(stopping())
        self.news([(number, 0, stopping()) for number in list(self.clients)])
        self.ended.set()
        if not ended:
            os.kill(os.getpid(), signal.SIGTERM)

    def news(self, news: Sequence[tuple[int, int, News]]) -> None:
        """What the engine tells: (client, which of its runs, what happened)."""
        for number, index, event in news:
            if client := self.clients.get(number):
                client.receive(index, event)
                if not client.open:
                    del self.clients[number]

    def answer(self, number: int, value: Any, error: Exception | None) -> None:
        """What it answers."""
        future = self.asked.pop(number)
        if not future.done():
            future.set_result(value) if error is None else future.set_exception(error)

    def send(self, *message: Any) -> None:
        """Say something to the engine."""
        if self.transport is None:
            self.unsent += packed(*message)
        else:
            self.transport.write(packed(*message))

    def take(self, wanted: Sequence[Wanted]) -> Client:
        """Queue what a client wants; what is refused fails. Raises RequestError if the server stops (503)."""
        if self.closing != "no":
            raise stopping()
        client = Client(self, asyncio.get_running_loop(), next(self.numbers), len(wanted))
        if wanted:
            self.clients[client.number] = client
            self.send("take", client.number, wanted)
        return client

    def forget(self, client: Client) -> None:
        """Cancel what a client still waits for."""
        if self.clients.pop(client.number, None):
            self.send("forget", client.number)

    async def ask(self, name: str, *arguments: Any) -> Any:
        """What the engine answers (`Engine.answers`). Raises RequestError where it fails."""
        number, future = next(self.numbers), asyncio.get_running_loop().create_future()
        self.asked[number] = future
        self.send("ask", number, name, *arguments)
        return await asyncio.wait_for(future, ANSWER_SECONDS)

    async def prepared(self, method: str, select: SelectConfig, mentor: MentorConfig) -> Prepared:
        """What is to be told of a method under these settings. Raises RequestError where this pair cannot serve it."""
        key = method, select, mentor
        if key not in self.known:
            found: Prepared = await self.ask("prepared", *key)
            while len(self.known) >= REMEMBERED:
                del self.known[next(iter(self.known))]
            self.known[key] = found
        return self.known[key]

    def refuse(self) -> None:
        """Take no more requests; those that are here go on."""
        self.closing = "refusing"
        self.send("refuse")

    def halt(self) -> None:
        """End soon: what still runs fails, and is told so."""
        self.closing = "stopped"
        self.send("halt")

    async def stop(self) -> None:
        """End, and wait for it."""
        self.halt()
        await self.ended.wait()


@dataclass(eq=False)
class Client:
    """Who waits for some runs."""

    engine: DistantEngine
    loop: asyncio.AbstractEventLoop
    number: int  # by which the engine knows it
    open: int  # runs that have not ended
    held: list[tuple[int, News]] = field(default_factory=list)  # what it has not read
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # something of it shall be read
    timer: asyncio.TimerHandle | None = None
    told: float = 0.0  # when it was last woken, in the time of the event loop
    begun: set[int] = field(default_factory=set)
    over: Exception | None = None  # why nothing more is read

    def receive(self, index: int, event: News) -> None:
        """Hear of an event: what begins or ends a run at once, other tokens soon."""
        self.held.append((index, event))
        if not isinstance(event, Written):
            self.open -= 1
        elif index in self.begun and self.loop.time() - self.told <= CHUNK_SECONDS:
            if self.timer is None:
                self.timer = self.loop.call_at(self.told + CHUNK_SECONDS, self.release)
            return
        self.begun.add(index)
        self.release()

    def release(self) -> None:
        """Wake the reader."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer, self.told = None, self.loop.time()
        self.ready.set()

    async def events(self, deadline: float) -> AsyncIterator[list[tuple[int, News]]]:
        """(which run, what happened) as it comes, errors included; tokens that came shortly after each other together.

        Raises:
            TimeoutError: it has not all come by `deadline`, in the time of the event loop.
            ClientGone: it left.
        """
        timer = self.loop.call_at(deadline, self.leave, TimeoutError())
        try:
            while self.open or self.held:
                await self.ready.wait()
                self.ready.clear()
                if self.over is not None:
                    raise self.over
                news, self.held = joined(self.held), []
                yield news
        finally:
            timer.cancel()

    def leave(self, why: Exception | None = None) -> None:
        """Read no more: what is still running is cancelled."""
        self.over = why or ClientGone()
        self.ready.set()
        self.engine.forget(self)


def joined(news: Sequence[tuple[int, News]]) -> list[tuple[int, News]]:
    """The same events, the tokens of one run that follow each other in one."""
    found: list[tuple[int, News]] = []
    for index, event in news:
        before = found[-1] if found else None
        if isinstance(event, Written) and before and before[0] == index and isinstance(before[1], Written):
            event = Written(before[1].tokens + event.tokens, before[1].steps + event.steps)
            found.pop()
        found.append((index, event))
    return found
