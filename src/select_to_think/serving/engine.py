"""The engine: one thread that steps the session's runtime for all who wait.

Runs begin in order of arrival while there are rows for them; what is beyond `max_queue` is refused at once. The runs of
a reader who leaves are gone before the next forward.

Non-goals: what the runs are (`wanted.py`), who reads (`readers.py`), and what is told of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import TYPE_CHECKING

from select_to_think.config import MethodSettings
from select_to_think.runs import Committed, Failed, Finished, Run
from select_to_think.serving.errors import RequestError, stopping
from select_to_think.serving.readers import Client, Closing, News, Outlet, Reader
from select_to_think.serving.wanted import Prepared, Wanted, Workshop
from select_to_think.session import Session
from select_to_think.streams import Stream
from select_to_think.structures import StepRecord

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

logger = logging.getLogger(__name__)
RATE_SECONDS = 5.0  # over which tokens per second are counted


@dataclass(eq=False)
class Job:
    """One run, on its way through the engine."""

    method: str
    run: Run
    index: int  # among those of its reader
    reader: Reader
    arrived: float = field(default_factory=time.monotonic)  # seconds, as `begun`
    begun: float | None = None


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

    def collect(self) -> Iterable[Metric]:
        """What was made of it."""
        return ()


class Engine:
    """Steps a session's runtime."""

    def __init__(
        self, session: Session, *, max_rows: int = 64, max_queue: int = 256, observer: Observer | None = None
    ) -> None:
        """Serve runs of `session`, `max_rows` sequences at once; `max_queue` more runs may wait."""
        self.session, self.max_rows, self.max_queue = session, max_rows, max_queue
        self.workshop = Workshop(session)
        self.observer = observer or Observer()
        self.streams, self.stream = session.streams, Stream()
        self.changed = Condition()  # guards what clients touch: the three below
        self.waiting: deque[Job] = deque()
        self.left: list[Reader] = []
        self.closing: Closing = "no"
        self.live: dict[int, Job] = {}
        self.numbers = 0
        self.written: deque[tuple[float, int]] = deque()  # (when, tokens)
        self.thread = Thread(target=self.serve, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to step."""
        self.thread.start()

    def prepared(self, method: str, settings: MethodSettings) -> Prepared:
        """What is to be told of a method under these settings. Raises S2TError where this pair cannot serve them."""
        return self.workshop.prepared(method, settings)

    def take(self, wanted: Sequence[Wanted]) -> Client:
        """Queue what a client in the running event loop wants.

        Raises:
            RequestError: the queue is full (429), the server stops (503), or it cannot be had.
            S2TError: settings that this pair cannot serve.
        """
        return self.submit(self.workshop.runs(wanted))

    def submit(self, runs: Sequence[tuple[str, Run]]) -> Client:
        """Queue (method, run) pairs for a client in the running event loop. Raises RequestError as `take` does."""
        client = Client(self, asyncio.get_running_loop(), open=len(runs))
        self.queue(runs, client)
        return client

    def queue(self, runs: Sequence[tuple[str, Run]], reader: Reader) -> None:
        """Queue runs for a reader. Raises RequestError as `take` does."""
        with self.changed:
            if self.closing != "no":
                raise stopping()
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
            self.waiting.extend(Job(method, run, index, reader) for index, (method, run) in enumerate(runs))
            self.changed.notify()

    def forget(self, reader: Reader) -> None:
        """Cancel what a reader still waits for."""
        with self.changed:
            self.left.append(reader)
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
        self.fail(stopping())
        self.hand_out()

    def awaited(self) -> bool:
        """Wait for something to do; False once the engine stops."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.left or self.live or self.closing == "stopped")
            return self.closing != "stopped"

    def take_in(self) -> None:
        """Let readers go, and runs begin while there are rows for them; under the lock of the streams."""
        with self.changed:
            gone, self.left = set(self.left), []
            begun: list[Job] = []
            if gone:
                for job in [job for job in self.waiting if job.reader in gone]:
                    self.observer.ended(job, None)
                self.waiting = deque(job for job in self.waiting if job.reader not in gone)
                for number in [number for number, job in self.live.items() if job.reader in gone]:
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
        """Give events to those who wait, at once for each outlet."""
        batches: dict[Outlet, list[News]] = defaultdict(list)
        tokens = 0
        while self.stream.inbox:
            number, event = self.stream.inbox.popleft()
            job = self.live.get(number)
            if job is None:
                continue
            batches[job.reader.outlet].append((job.reader, job.index, event))
            if isinstance(event, Committed):
                tokens += len(event.steps)
                self.observer.committed(job, event.steps)
            else:
                del self.live[number]
                self.observer.ended(job, event)
        if tokens:
            self.written.append((time.monotonic(), tokens))
        for outlet, news in batches.items():
            outlet(news)

    def metrics(self) -> list[Metric]:
        """What its observer keeps."""
        return list(self.observer.collect())

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
