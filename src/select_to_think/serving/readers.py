"""Who waits for answers, and what a server asks of the engine that writes them.

Non-goals: stepping (`engine.py`), and the way between processes (`distant.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from select_to_think.config import MethodSettings
from select_to_think.runs import Committed, Event
from select_to_think.serving.wanted import Prepared, Wanted
from select_to_think.session import Session

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CHUNK_SECONDS = 0.03  # between two awakenings of a client, at least: a person sees no pause, and chunks cost time
Closing = Literal["no", "refusing", "stopped"]
News = tuple[Any, int, Event]  # (reader, which of its runs, what happened)
Outlet = Callable[[Sequence[News]], None]  # takes the news of many readers, in the engine's thread


class Reader(Protocol):
    """Who waits for the events of some runs."""

    @property
    def outlet(self) -> Outlet: ...


class ServingEngine(Protocol):
    """What a server asks of an engine, wherever that is. `prepared`, `state` and `metrics` may block."""

    session: Session
    closing: Closing

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def prepared(self, method: str, settings: MethodSettings) -> Prepared: ...
    def take(self, wanted: Sequence[Wanted]) -> Client: ...
    def forget(self, reader: Reader) -> None: ...
    def refuse(self) -> None: ...
    def halt(self) -> None: ...
    def state(self) -> dict[str, int | float]: ...
    def metrics(self) -> list[Metric]: ...


@dataclass(eq=False)
class Client:
    """A reader in an event loop."""

    engine: ServingEngine
    loop: asyncio.AbstractEventLoop
    inbox: asyncio.Queue[tuple[int, Event] | None] = field(default_factory=asyncio.Queue)  # None: it took too long
    open: int = 0  # runs that have not ended
    number: int = 0  # by which an engine in another process knows it
    held: list[tuple[int, Event]] = field(default_factory=list)  # until `timer` releases them
    timer: asyncio.TimerHandle | None = None
    begun: set[int] = field(default_factory=set)  # runs of which something was told
    told: float = 0.0  # when, in the time of the event loop

    @property
    def outlet(self) -> Outlet:
        """Wakes the event loop."""
        return LoopOutlet(self.loop)

    def receive(self, index: int, event: Event) -> None:
        """Hear of an event, in the event loop: what begins or ends a run at once, its other steps soon."""
        self.held.append((index, event))
        if not isinstance(event, Committed) or index not in self.begun or self.loop.time() - self.told > CHUNK_SECONDS:
            self.begun.add(index)
            self.release()
        elif self.timer is None:
            self.timer = self.loop.call_at(self.told + CHUNK_SECONDS, self.release)

    def release(self) -> None:
        """Wake the reader."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer, self.told = None, self.loop.time()
        for entry in self.held:
            self.inbox.put_nowait(entry)
        self.held.clear()

    async def events(self, deadline: float) -> AsyncIterator[tuple[int, Event]]:
        """(index, event) of all runs as they come, `Failed` ones included.

        Steps that came while nobody read, or one shortly after the other, come together.

        Raises:
            TimeoutError: they have not all come by `deadline`, in the time of the event loop.
        """
        timer = self.loop.call_at(deadline, self.inbox.put_nowait, None)
        try:
            while self.open:
                news = [await self.inbox.get()]
                while not self.inbox.empty():
                    news.append(self.inbox.get_nowait())
                for index, event in joined(news):
                    self.open -= not isinstance(event, Committed)
                    yield index, event
        finally:
            timer.cancel()

    def leave(self) -> None:
        """Read no more: what is still running is cancelled."""
        if self.open:
            self.open = 0
            self.engine.forget(self)


@dataclass(frozen=True)
class LoopOutlet:
    """Gives events to the clients in one event loop."""

    loop: asyncio.AbstractEventLoop

    def __call__(self, news: Sequence[News]) -> None:
        with suppress(RuntimeError):  # a loop that was closed: nobody waits there
            self.loop.call_soon_threadsafe(deliver, news)


def deliver(news: Sequence[tuple[Client, int, Event]]) -> None:
    """In the event loop of the clients."""
    for client, index, event in news:
        client.receive(index, event)


def joined(news: Sequence[tuple[int, Event] | None]) -> list[tuple[int, Event]]:
    """The same events, the steps of one run that follow each other in one. Raises TimeoutError where it says so."""
    found: list[tuple[int, Event]] = []
    for entry in news:
        if entry is None:
            raise TimeoutError
        index, event = entry
        before = found[-1] if found else None
        if isinstance(event, Committed) and before and before[0] == index and isinstance(before[1], Committed):
            found[-1] = index, Committed(event.key, [*before[1].steps, *event.steps])
        else:
            found.append((index, event))
    return found
