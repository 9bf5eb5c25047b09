"""What a command shows: results on stdout, everything else on stderr.

With `--json`, stdout holds exactly one JSON object; whatever else is printed meanwhile, by Python or by native code,
goes to stderr. Colours and moving bars appear only on a terminal, and not under NO_COLOR. Texts of models and files may
hold anything: escape sequences in them are shown and not obeyed, and brackets in them are no markup.

Non-goals: what the numbers mean.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from select_to_think.files import finite
from select_to_think.text import visible

PIPED_WIDTH = 140  # columns of a table that no terminal limits
STDOUT = 1  # what native code and child processes write to


@dataclass(frozen=True)
class Reply:
    """What a command answers: `payload` for `--json`, `show` for a person; either may do its work when it is called."""

    payload: dict[str, Any] | Callable[[], dict[str, Any]]
    show: Callable[[Console], object]


class TextConsole(Console):
    """A console on which a text can do nothing but be read; styles come from our own code alone."""

    def on_broken_pipe(self) -> None:
        """The reader has gone. Of results that ends the command; what is told beside them is told to nobody."""
        if self.file is not sys.stderr:
            raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The pieces of what is printed, with control characters made visible (those that rich itself sends stay)."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def console(stream: TextIO) -> Console:
    """A rich console on `stream`: the terminal's width, or wide enough for a table where there is none."""
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    colours: Any = None if os.environ.get("NO_COLOR") else "auto"  # without: no style at all, so marks are written out
    return TextConsole(file=stream, width=width, color_system=colours, highlight=False, markup=False, emoji=False)


def write_reply(reply: Reply, stream: TextIO, as_json: bool) -> None:
    """Write the answer of a command to `stream`."""
    if as_json:
        payload = reply.payload() if callable(reply.payload) else reply.payload
        stream.write(visible(json.dumps(finite(payload), ensure_ascii=False, allow_nan=False)) + "\n")
    else:
        reply.show(console(stream))
    stream.flush()


def notes() -> Console:
    """The console for everything that is not the result (stderr)."""
    return console(sys.stderr)


def note(text: str) -> None:
    """Tell a person something that is not the result; on stderr."""
    notes().print(text, style="dim", soft_wrap=True)


@contextmanager
def only_the_result(enabled: bool) -> Iterator[TextIO]:
    """Yield the stream for the result; while `enabled`, all other output to stdout is sent to stderr."""
    stdout = sys.stdout
    if not enabled:
        yield stdout
        return
    stdout.flush()
    try:
        result_to, rest_to = os.dup(stdout.fileno()), sys.stderr.fileno()
    except (AttributeError, io.UnsupportedOperation):  # captured streams without descriptors
        with redirect_stdout(sys.stderr):
            yield stdout
        return
    saved = os.dup(STDOUT)
    try:
        os.dup2(rest_to, STDOUT)
        with redirect_stdout(sys.stderr), os.fdopen(result_to, "w", encoding="utf-8") as result:
            yield result
    finally:
        os.dup2(saved, STDOUT)
        os.close(saved)
