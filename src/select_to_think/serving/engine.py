"""The engine: one thread that steps the session's runtime for all who wait, and hears between steps what is wanted.

Runs begin in order of arrival while there are rows for them; what is beyond `max_queue` is refused at once. The runs of
a client who leaves are gone before the next forward.

Non-goals: what the runs are (`wanted.py`), who reads (`readers.py`), and the way there (`line.py`).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property
from threading import Thread
from typing import Any

from select_to_think.contexts.kv import KVMemory
from select_to_think.contexts.local import LocalBackend
from select_to_think.runs import Committed, Failed, Finished
from select_to_think.serving.errors import RequestError, request_error, stopping
from select_to_think.serving.line import Line
from select_to_think.serving.metrics import Metrics
from select_to_think.serving.readers import Closing, DistantEngine
from select_to_think.serving.wanted import Ended, Job, News, Wanted, Workshop, Written
from select_to_think.session import Session
from select_to_think.streams import Stream

logger = logging.getLogger(__name__)
RATE_SECONDS = 5.0  # over which tokens per second are counted
ROW_SLOTS = 512  # of the key-value memory, of a row: a question, an answer of the default length, and its candidates


class Engine:
    """Steps a session's runtime."""

    def __init__(self, session: Session, *, max_rows: int = 64, max_queue: int = 256) -> None:
        """Serve runs of `session`, `max_rows` sequences at once; `max_queue` more runs may wait."""
        self.session, self.max_rows, self.max_queue = session, max_rows, max_queue
        for backend in session.backends.values():
            if isinstance(backend, LocalBackend):
                backend.take_memory()  # before anybody is told that there is a server
        self.workshop, self.line = Workshop(session), Line()
        self.streams, self.stream = session.streams, Stream()
        self.waiting: deque[Job] = deque()
        self.live: dict[int, Job] = {}
        self.closing: Closing = "no"
        self.numbers = 0
        self.written: deque[tuple[float, int]] = deque()  # (when, tokens)
        self.counted = Metrics(session.backends, self.state)
        self.answers: dict[str, Callable[..., Any]] = {
            "prepared": self.workshop.prepared,
            "metrics": self.counted.collect,
            "state": self.state,
        }
        self.thread = Thread(target=self.serve, name="engine", daemon=True)

    @cached_property
    def distant(self) -> DistantEngine:
        """What a server needs of it."""
        return DistantEngine(self.session, self.line.far)

    def start(self) -> None:
        """Begin to step, in memory that is taken now: a server shall not grow as its cache of prefixes fills."""
        for backend in self.session.backends.values():
            if isinstance(memory := getattr(backend, "memory", None), KVMemory):
                memory.touch(self.session.runtime_config.prefix_cache_tokens + self.max_rows * ROW_SLOTS)
        self.thread.start()

    def serve(self) -> None:
        """Step as long as there is something to do, and wait while there is not."""
        try:
            while self.hear():
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
                    self.counted.step_seconds.observe(time.monotonic() - began)
            self.fail(stopping())
            self.hand_out()
        finally:
            self.line.close()

    def hear(self) -> bool:
        """Do what was asked meanwhile; wait while there is nothing else to do. False once the engine stops."""
        try:
            for name, *arguments in self.line.messages(wait=not (self.waiting or self.live)):
                getattr(self, name)(*arguments)
        except EOFError:  # the server has gone
            self.halt()
        return self.closing != "stopped"

    def take(self, client: int, wanted: Sequence[Wanted]) -> None:
        """Queue what a client wants, or tell it why not."""
        try:
            self.queue([Job(each, self.workshop.run(each), client, index) for index, each in enumerate(wanted)])
        except Exception as error:
            refusal = request_error(error)
            self.line.send("news", [(client, index, refusal) for index in range(len(wanted))])

    def queue(self, jobs: Sequence[Job]) -> None:
        """Queue what belongs together. Raises RequestError: the queue is full (429), or the server stops (503)."""
        if self.closing != "no":
            raise stopping()
        free = self.max_queue + max(0, self.max_rows - len(self.live))
        if len(self.waiting) + len(jobs) > free:
            for job in jobs:
                self.counted.refused(job)
            if len(jobs) > (most := self.max_queue + self.max_rows):
                wanted = f"{len(jobs)} answers are asked for at once, and {most} fit: ask for fewer"
                raise RequestError(wanted, param="n")
            raise RequestError(
                f"{len(self.waiting)} answers wait already: try again in a moment",
                429,
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        self.waiting.extend(jobs)

    def forget(self, client: int) -> None:
        """Cancel what a client still waits for."""
        for job in [job for job in self.waiting if job.client == client]:
            self.waiting.remove(job)
            self.counted.ended(job, None)
        with self.streams.lock:
            for number in [number for number, job in self.live.items() if job.client == client]:
                self.drop(number)
                self.counted.ended(self.live.pop(number), None)

    def ask(self, number: int, name: str, *arguments: Any) -> None:
        """Answer a question, beside the steps."""

        def answer() -> None:
            try:
                value, failure = self.answers[name](*arguments), None
            except Exception as error:
                value, failure = None, request_error(error)
            self.line.send("answer", number, value, failure)

        Thread(target=answer, daemon=True).start()

    def refuse(self) -> None:
        """Take no more requests; those that are here go on."""
        self.closing = "refusing"

    def halt(self) -> None:
        """End soon: what still runs fails, and is told so."""
        self.closing = "stopped"

    def take_in(self) -> None:
        """Let runs begin while there are rows for them; under the lock of the streams."""
        rows = sum(self.stream.live.values()) - self.streams.away(self.stream, self.max_rows)
        while self.waiting and (not self.stream.live or rows + max(1, self.waiting[0].run.copies) <= self.max_rows):
            job = self.waiting.popleft()
            rows += max(1, job.run.copies)
            self.numbers += 1
            self.live[self.numbers] = job
            self.streams.add(self.stream, self.numbers, job.run)
            self.counted.begun(job)

    def drop(self, number: int) -> bool:
        """Take a live run out of the runtime, if it has not ended there; under the lock of the streams."""
        if self.stream.live.pop(number, None) is None:
            return False
        self.streams.runtime.cancel((self.stream, number))
        return True

    def fail(self, error: Exception) -> None:
        """End all runs with an error."""
        with self.streams.lock:
            failed = [number for number in self.live if self.drop(number)]
        for job in self.waiting:
            self.numbers += 1
            self.live[self.numbers] = job
            failed.append(self.numbers)
        self.waiting.clear()
        self.stream.inbox.extend((number, Failed(number, error)) for number in failed)

    def hand_out(self) -> None:
        """Tell what came of a step to those who wait."""
        news: list[tuple[int, int, News]] = []
        tokens = 0
        while self.stream.inbox:
            number, event = self.stream.inbox.popleft()
            job = self.live.get(number)
            if job is None:
                continue
            if isinstance(event, Committed):
                tokens += len(event.steps)
                self.counted.committed(job, event.steps)
            else:
                del self.live[number]
                self.counted.ended(job, event)
            news += [(job.client, job.index, each) for each in told(job, event)]
        now = time.monotonic()
        if tokens:
            self.written.append((now, tokens))
        while self.written and self.written[0][0] < now - RATE_SECONDS:
            self.written.popleft()
        if news:
            self.line.send("news", news)

    def state(self) -> dict[str, int | float]:
        """What a person may want to see of it."""
        backends, begin = self.session.backends, time.monotonic() - RATE_SECONDS
        lately = sum(tokens for when, tokens in self.written.copy() if when >= begin)
        return {
            "rows": sum(list(self.stream.live.values())),
            "queue": len(self.waiting),
            "tokens_per_second": lately / RATE_SECONDS,
            **{f"{name}_forwards": backends[name].forwards if name in backends else 0 for name in ("slm", "llm")},
        }


def told(job: Job, event: Committed | Finished | Failed) -> list[News]:
    """What a client hears of an event."""
    if isinstance(event, Failed):
        return [request_error(event.error)]
    ended: list[News] = [] if isinstance(event, Committed) else [Ended.of(event.result)]
    if isinstance(event, Committed) != job.wanted.streamed:
        return ended
    steps = tuple(event.steps if isinstance(event, Committed) else event.result.steps)
    return [Written(tuple(step.token for step in steps), steps if job.wanted.detailed else ()), *ended]
