"""Callers who share a runtime: each adds runs of its own and reads their events, at any time and from any thread.

Whoever waits steps the runtime for all; news for others is kept for them.

Non-goals: what the runs are (`session.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from select_to_think.runs import Committed, Event, Failed, Run
from select_to_think.runtime import Runtime


@dataclass(eq=False)
class Stream:
    """The runs of one caller."""

    inbox: deque[tuple[int, Event]] = field(default_factory=deque)
    live: dict[int, int] = field(default_factory=dict)  # run -> its sequences


class Streams:
    """A runtime, shared."""

    def __init__(self, runtime: Runtime) -> None:
        """Nobody reads yet."""
        self.runtime, self.lock = runtime, Lock()
        self.left: deque[Stream] = deque()

    def events(self, runs: Iterator[tuple[int, Run]], max_rows: int) -> Iterator[tuple[int, Event]]:
        """(index, event) of all runs as they come; the runs are read lazily, at most `max_rows` sequences at a time.

        What fails is raised; a reader who leaves early takes its runs along.
        """
        stream = Stream()
        try:
            while self.fill(stream, runs, max_rows):
                self.advance(stream)
                while stream.inbox:
                    index, event = stream.inbox.popleft()
                    if isinstance(event, Failed):
                        raise event.error
                    yield index, event
        finally:  # also when the reader is collected, perhaps in the midst of a step: then whoever steps next does it
            self.left.append(stream)
            if self.lock.acquire(blocking=False):
                try:
                    self.sweep()
                finally:
                    self.lock.release()

    def sweep(self) -> None:
        """Cancel the runs of readers who left; under the lock."""
        while self.left:
            stream = self.left.popleft()
            for index in stream.live:
                self.runtime.cancel((stream, index))

    def when_idle(self, act: Callable[[], object]) -> None:
        """Do something that no run may stand beside, if there is none; otherwise leave it."""
        if self.lock.acquire(blocking=False):
            try:
                self.sweep()
                if not self.runtime.busy:
                    act()
            finally:
                self.lock.release()

    def fill(self, stream: Stream, runs: Iterator[tuple[int, Run]], max_rows: int) -> bool:
        """Add runs while the stream may have more rows; whether there is anything to wait for."""
        while True:
            with self.lock:  # whoever steps takes finished runs out of `live`
                if stream.live and sum(stream.live.values()) - self.away(stream, max_rows) >= max_rows:
                    return True
            entry = next(runs, None)
            if entry is None:
                with self.lock:
                    return bool(stream.live or stream.inbox)
            with self.lock:
                self.add(stream, *entry)

    def add(self, stream: Stream, index: int, run: Run) -> None:
        """Let a run of a stream begin; under the lock."""
        stream.live[index] = max(1, run.copies)
        self.runtime.add((stream, index), run)

    def away(self, stream: Stream, max_rows: int) -> int:
        """Rows of a stream, at most half of all, that wait for an answer from elsewhere and leave others their place;
        under the lock."""
        away = self.runtime.rows_away()
        return min(sum(row.key[0] is stream for row in away), max_rows // 2) if away else 0  # type: ignore[index]

    def advance(self, stream: Stream) -> None:
        """Make one step, unless there is news for a stream already."""
        with self.lock:
            self.sweep()
            if stream.inbox:
                return
            if not self.runtime.busy:
                raise RuntimeError("a stream waits for runs that are gone")
            self.step()

    def step(self) -> None:
        """One step for all; under the lock."""
        for event in self.runtime.step():
            key: Any = event.key
            owner, index = key
            if not isinstance(event, Committed):
                del owner.live[index]
            owner.inbox.append((index, event))
