"""`s2t chat` and `s2t generate` as a person has them: in a pseudo-terminal, with keys, colours, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from select_to_think.cli import app
from select_to_think.cli.chat.local import LocalChat

QUESTION = "Today Ida has 27 keys. Ida lends 5 keys. Kira has 48 keys. Ida lends 7 keys. How many keys does Ida have?"
MARKED = "First Ida has 27 [+ -> -] 5 = 22 keys. Ida has 22 [+ -> -] 7 = 15 keys. The answer is 15."
CTRL_C, CTRL_D, TAB, UP = "\x03", "\x04", "\t", "\x1b[A"
GATED = """
import os, sys, time
from select_to_think.cli.app import main
from select_to_think.runtime import Runtime
step, made = Runtime.step, 0
def gated(self):
    global made
    made = made + 1 if self.live else 0
    while made == 12 and os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    return step(self)
Runtime.step = gated
sys.exit(main(sys.argv[2:]))
"""  # every answer waits at its twelfth token for as long as a file exists
FLIP = "\x1b[1;4;35m-\x1b[0m"
STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """A program with a terminal of its own."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.master, slave = pty.openpty()
        settings = {**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[2]), "TERM": "xterm-256color"}
        settings.pop("NO_COLOR", None)
        self.program = subprocess.Popen(
            [sys.executable, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**settings, "COLUMNS": "400", **environment},
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # it becomes the controlling terminal
        )
        os.close(slave)
        self.seen = ""

    def read(self, seconds: float) -> bool:
        """Take in what is shown within some time; whether there was anything."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        with contextlib.suppress(OSError):  # the program has left
            piece = os.read(self.master, 65536).decode()
            self.seen += piece
            return bool(piece)
        return False

    def expect(self, text: str, seconds: float = 60) -> str:
        """Wait for a text; returns what was shown up to it."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end and (self.read(1) or self.program.poll() is None), (text, self.seen)
        shown, _, self.seen = self.seen.partition(text)
        return shown

    def type(self, *keys: str) -> None:
        os.write(self.master, "".join(keys).encode())

    def press_until(self, key: str, text: str) -> None:
        """Press a key again until it shows: readline misses a signal that comes just before it waits for a key."""
        for seconds in (2, 4, 8, 16, 32):
            self.type(key)
            with contextlib.suppress(AssertionError):
                self.expect(text, seconds)
                return
        raise AssertionError((key, text, self.seen))

    def leave(self) -> tuple[int, str]:
        """Exit code, and what was still shown."""
        while self.read(0.2) or self.program.poll() is None:
            pass
        return self.program.wait(), self.seen


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type[Terminal]]:
    """Starts programs, with a state folder of their own, and ends them."""
    started: list[Terminal] = []

    class Started(Terminal):
        def __init__(self, *command: str, **environment: str) -> None:
            super().__init__(*command, **{"XDG_STATE_HOME": str(tmp_path / "state"), **environment})
            started.append(self)

    yield Started
    for terminal in started:
        if terminal.program.poll() is None:
            terminal.program.send_signal(signal.SIGKILL)
            terminal.program.wait()
        os.close(terminal.master)


def test_a_conversation_at_a_terminal(start: type[Terminal], tmp_path: Path) -> None:
    history = tmp_path / "state" / "select-to-think" / "chat_history"
    history.parent.mkdir(parents=True)
    history.write_text(f"{QUESTION}\n")
    gate = tmp_path / "gate"
    gate.touch()
    chat = start("-c", GATED, str(gate), "chat")
    chat.expect("> ")
    chat.type(UP, "\r")
    chat.expect(FLIP)
    assert "answer" not in chat.seen, "the flip is shown with the rest of the answer"
    gate.unlink()
    assert "2 triggered · 2 flipped" in chat.expect("\n> ")
    chat.type("/why 4\r")
    assert "27 [-] 5" in STYLE.sub("", chat.expect("\n> "))
    chat.type("/me", TAB, "gre", TAB, "\r")
    chat.expect("method: greedy")
    chat.expect("\n> ")
    chat.type("half a question")
    chat.expect("question")  # the line is being read: a signal before that would be another test
    chat.press_until(CTRL_C, "Ctrl-D leaves")
    chat.expect("\n> ")
    gate.touch()
    chat.type("/retry\r")
    chat.expect("First")
    chat.type(CTRL_C)
    assert "answer" not in chat.expect("stopped")
    chat.expect("\n> ")
    gate.unlink()
    chat.type("/why 0\r")
    chat.expect("step 0")
    chat.expect("\n> ")
    chat.type(QUESTION, "\r")
    chat.expect("The answer is 39.")
    chat.expect("\n> ")
    chat.type(CTRL_D)
    code, shown = chat.leave()
    assert code == 0 and "Traceback" not in shown
    asked = [QUESTION, "/why 4", "/method greedy", "/retry", "/why 0", QUESTION]
    assert [line.strip() for line in history.read_text().splitlines()] == asked
    assert history.stat().st_mode & 0o077 == 0, "others can read what was asked"


def test_generate_shows_an_answer_as_it_is_written(start: type[Terminal], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    program = start("-c", GATED, str(gate), "generate", QUESTION)
    program.expect(QUESTION)
    program.expect(FLIP)
    program.type(CTRL_C)
    assert "answer" not in program.expect("stopped; nothing was written")
    gate.unlink()
    code, shown = program.leave()
    assert code == 130 and "answer" not in shown and "Traceback" not in shown


@pytest.mark.parametrize("terminal", [False, True])
def test_marks_are_brackets_where_there_are_no_colours(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "140")
    for count in (1, 2):
        assert app.main(["generate", *[QUESTION] * count]) == 0
        shown = screen.getvalue()
        assert shown.count(f"{QUESTION}\n{MARKED}\n\n[word] triggered step") == count
        assert shown.count("\ntriggered steps") == count and "\x1b" not in shown
        screen.truncate(screen.seek(0))


def test_json_is_never_streamed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(LocalChat, "answer", None)
    assert app.main(["generate", QUESTION, "--json"]) == 0
    (result,) = json.loads(capfd.readouterr().out)["results"]
    assert result["text"] == "".join(step["text_added"] for step in result["steps"])
    assert [step["text"] for step in result["steps"] if step["flip"]] == [" -", " -"]
