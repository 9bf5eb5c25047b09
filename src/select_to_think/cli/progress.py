"""Progress of long steps, with the time that is left: a bar on a terminal, now and then a line where there is none.

Always on stderr. Non-goals: knowing what is counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from select_to_think import structures
from select_to_think.cli.output import notes

SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def progress(description: str) -> Iterator[structures.Progress]:
    """Show one long step; call what is yielded with how much of how much is done."""
    screen = notes()
    if screen.color_system is None:  # no terminal, or one without colours
        yield Lines(description)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Lines:
    """Progress as plain lines, at most one every `SECONDS_BETWEEN_LINES`, and one at the end."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.started = self.last = time.monotonic()
        self.first: int | None = None  # what was done before this run, which says nothing about its speed

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = done
        if now - self.last < SECONDS_BETWEEN_LINES and done < total:
            return
        self.last = now
        fresh, seconds = done - self.first, now - self.started
        left = f", {clock(seconds / fresh * (total - done))} left" if fresh > 0 and done < total else ""
        notes().print(f"{self.description}: {done}/{total} in {clock(seconds)}{left}", soft_wrap=True)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, without the hours where there are none."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
