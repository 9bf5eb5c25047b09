"""The engine: one thread that steps the session's runtime for all clients, which wait in event loops.

Runs begin in order of arrival while there are rows for them; what is beyond `max_queue` is refused at once. The runs of
a client who leaves are gone before the next forward.

Non-goals: what the runs are (`jobs.py`), and what is told of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Literal

from select_to_think.runs import Committed, Event, Failed, Finished, Run
from select_to_think.serving.errors import RequestError
from select_to_think.session import Session
from select_to_think.streams import Stream
from select_to_think.structures import StepRecord

logger = logging.getLogger(__name__)
RATE_SECONDS = 5.0  # over which tokens per second are counted
CHUNK_SECONDS = 0.03  # between two awakenings of a client, at least: a person sees no pause, and chunks cost time


@dataclass(eq=False)
class Job:
    """One run, on its way through the engine."""

    method: str
    run: Run
    index: int  # among those of its client
    client: Client
    arrived: float = field(default_factory=time.monotonic)  # seconds, as `begun`
    begun: float | None = None


@dataclass(eq=False)
class Client:
    """Who waits for the events of some runs."""

    engine: Engine
    loop: asyncio.AbstractEventLoop
    inbox: asyncio.Queue[tuple[int, Event] | None] = field(default_factory=asyncio.Queue)  # None: it took too long
    open: int = 0  # runs that have not ended
    held: list[tuple[int, Event]] = field(default_factory=list)  # until `timer` releases them
    timer: asyncio.TimerHandle | None = None
    begun: set[int] = field(default_factory=set)  # runs of which something was told
    told: float = 0.0  # when, in the time of the event loop

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


class Observer:
    """Is told what happens, in the engine's thread (`refused`: in the client's); metrics are made of it."""

    def refused(self, method: str) -> None:
        """A run was not taken: the queue is full."""

    def begun(self, job: Job) -> None:
        """A run has left the queue."""

    def committed(self, job: Job, steps: Sequence[StepRecord]) -> None:
        """Steps of a run are final."""

    def ended(self, job: Job, event: Finished | Failed | None) -> None:
        """A run is over; without an event, because its client left."""

    def stepped(self, seconds: float, rows: int) -> None:
        """The runtime made a step with so many sequences."""


class Engine:
    """Steps a session's runtime."""

    def __init__(
        self, session: Session, *, max_rows: int = 64, max_queue: int = 256, observer: Observer | None = None
    ) -> None:
        """Serve runs of `session`, `max_rows` sequences at once; `max_queue` more runs may wait."""
        self.session, self.max_rows, self.max_queue = session, max_rows, max_queue
        self.observer = observer or Observer()
        self.streams, self.stream = session.streams, Stream()
        self.changed = Condition()  # guards what clients touch: the three below
        self.waiting: deque[Job] = deque()
        self.left: list[Client] = []
        self.closing: Literal["no", "refusing", "stopped"] = "no"
        self.live: dict[int, Job] = {}
        self.numbers = 0
        self.written: deque[tuple[float, int]] = deque()  # (when, tokens)
        self.thread = Thread(target=self.serve, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to step."""
        self.thread.start()

    def submit(self, runs: Sequence[tuple[str, Run]]) -> Client:
        """Queue (method, run) pairs for one client in the running event loop.

        Raises:
            RequestError: the queue is full (429), or the server stops (503).
        """
        client = Client(self, asyncio.get_running_loop(), open=len(runs))
        with self.changed:
            if self.closing != "no":
                raise RequestError("the server is stopping", 503, code="stopping")
            free = self.max_queue + max(0, self.max_rows - len(self.live))
            if len(self.waiting) + len(runs) > free:
                for method, _ in runs:
                    self.observer.refused(method)
                raise RequestError(
                    f"{len(self.waiting)} answers wait already: try again in a moment",
                    429,
                    code="rate_limit_exceeded",
                    headers={"Retry-After": "1"},
                )
            self.waiting.extend(Job(method, run, index, client) for index, (method, run) in enumerate(runs))
            self.changed.notify()
        return client

    def forget(self, client: Client) -> None:
        """Cancel what a client still waits for."""
        with self.changed:
            self.left.append(client)
            self.changed.notify()

    def refuse(self) -> None:
        """Take no more requests; those that are here go on."""
        with self.changed:
            self.closing = "refusing"

    def halt(self) -> None:
        """End soon: what still runs fails, and is told so."""
        with self.changed:
            self.closing = "stopped"
            self.changed.notify()

    def stop(self) -> None:
        """End, and wait for it."""
        self.halt()
        if self.thread.is_alive():
            self.thread.join()

    def serve(self) -> None:
        """Step as long as there is something to do, and wait while there is not."""
        while self.awaited():
            began, rows = time.monotonic(), 0
            try:
                with self.streams.lock:
                    self.take_in()
                    rows = sum(self.stream.live.values())
                    if rows:
                        self.streams.step()
            except Exception as error:  # of the runtime itself: whoever takes part cannot go on
                logger.exception("a step of the runtime failed")
                self.fail(error)
            self.hand_out()
            if rows:
                self.observer.stepped(time.monotonic() - began, rows)
        self.fail(RequestError("the server is stopping", 503, code="stopping"))
        self.hand_out()

    def awaited(self) -> bool:
        """Wait for something to do; False once the engine stops."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.left or self.live or self.closing == "stopped")
            return self.closing != "stopped"

    def take_in(self) -> None:
        """Let clients go, and runs begin while there are rows for them; under the lock of the streams."""
        with self.changed:
            gone, self.left = set(self.left), []
            begun: list[Job] = []
            if gone:
                for job in [job for job in self.waiting if job.client in gone]:
                    self.observer.ended(job, None)
                self.waiting = deque(job for job in self.waiting if job.client not in gone)
                for number in [number for number, job in self.live.items() if job.client in gone]:
                    self.drop(number)
            rows = sum(self.stream.live.values())
            while self.waiting and (not rows or rows + max(1, self.waiting[0].run.copies) <= self.max_rows):
                begun.append(self.waiting.popleft())
                rows += max(1, begun[-1].run.copies)
                self.numbers += 1
                self.live[self.numbers] = begun[-1]
        for number, job in enumerate(begun, self.numbers - len(begun) + 1):
            job.begun = time.monotonic()
            self.streams.add(self.stream, number, job.run)
            self.observer.begun(job)

    def drop(self, number: int) -> None:
        """Cancel a live run."""
        job = self.live.pop(number)
        if self.stream.live.pop(number, None) is not None:
            self.streams.runtime.cancel((self.stream, number))
        self.observer.ended(job, None)

    def fail(self, error: Exception) -> None:
        """End all runs with an error."""
        with self.streams.lock, self.changed:
            for number in self.live:
                if self.stream.live.pop(number, None) is not None:
                    self.streams.runtime.cancel((self.stream, number))
                    self.stream.inbox.append((number, Failed(number, error)))
            for job in self.waiting:
                self.numbers += 1
                self.live[self.numbers] = job
                self.stream.inbox.append((self.numbers, Failed(self.numbers, error)))
            self.waiting.clear()

    def hand_out(self) -> None:
        """Give events to the event loops of their clients, at once for each loop."""
        batches: dict[asyncio.AbstractEventLoop, list[tuple[Client, int, Event]]] = defaultdict(list)
        tokens = 0
        while self.stream.inbox:
            number, event = self.stream.inbox.popleft()
            job = self.live.get(number)
            if job is None:
                continue
            batches[job.client.loop].append((job.client, job.index, event))
            if isinstance(event, Committed):
                tokens += len(event.steps)
                self.observer.committed(job, event.steps)
            else:
                del self.live[number]
                self.observer.ended(job, event)
        if tokens:
            self.written.append((time.monotonic(), tokens))
        for loop, batch in batches.items():
            with suppress(RuntimeError):  # a loop that was closed: nobody waits there
                loop.call_soon_threadsafe(deliver, batch)

    def state(self) -> dict[str, int | float]:
        """What a person may want to see of it."""
        now = time.monotonic()
        while self.written and self.written[0][0] < now - RATE_SECONDS:
            self.written.popleft()
        backends = self.session.backends
        return {
            "rows": sum(list(self.stream.live.values())),
            "queue": len(self.waiting),
            "tokens_per_second": sum(tokens for _, tokens in list(self.written)) / RATE_SECONDS,
            **{f"{name}_forwards": backends[name].forwards if name in backends else 0 for name in ("slm", "llm")},
        }


def deliver(batch: Sequence[tuple[Client, int, Event]]) -> None:
    """In a client's event loop."""
    for client, index, event in batch:
        client.receive(index, event)
