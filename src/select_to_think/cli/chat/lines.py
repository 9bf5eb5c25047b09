"""The lines that a person types: with history and completion on a terminal.

Non-goals: what the lines mean.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from select_to_think.cli.output import note

PROMPT = "> "
KEPT_LINES = 1000

Complete = Callable[[str], list[str]]  # the line so far -> what its last word may become


def history_file() -> Path:
    """Where the questions of earlier chats are kept: in the user's state folder (XDG base directories)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "select-to-think" / "chat_history"


def typed() -> Iterator[str]:
    """Lines from the keyboard until Ctrl-D."""
    while True:
        try:
            yield input(PROMPT if sys.stdout.isatty() else "")  # into a pipe go the answers alone
        except EOFError:
            note("")
            return
        except KeyboardInterrupt:
            note("\nCtrl-D leaves")


@contextmanager
def line_editing(complete: Complete) -> Iterator[None]:
    """Arrow keys, history and completion where Python has readline; the history is for the user's eyes only."""
    try:
        import readline
    except ImportError:
        yield
        return

    def complete_word(word: str, state: int) -> str | None:
        found = complete(readline.get_line_buffer()[: readline.get_endidx()])
        return found[state] if state < len(found) else None

    readline.set_completer(complete_word)
    readline.set_completer_delims(" ")
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    path = history_file()
    with suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(KEPT_LINES)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch()
            path.chmod(0o600)
            readline.write_history_file(path)
        readline.set_completer(None)


def lines(complete: Complete) -> Generator[str, None, None]:
    """What is asked: typed on a terminal, or one question a line from a file or a pipe."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # half a character is refused where it is used
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with line_editing(complete):
        yield from typed()
