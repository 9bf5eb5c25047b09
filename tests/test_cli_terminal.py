"""Texts of models and files on a terminal: escape sequences are shown, not obeyed, whatever prints them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from analysis_run import make_run
from fake_session import speaking
from select_to_think.cli import app, progress
from select_to_think.cli.command import print_error
from select_to_think.cli.generate import describe
from select_to_think.cli.output import Reply, console, note, write_reply
from select_to_think.cli.trace import show_result
from select_to_think.structures import Generation, StepRecord
from select_to_think.text import visible

ESC, CSI = "\x1b", "\x9b"
HOSTILE = (
    f"{ESC}[2J{ESC}[31m{ESC}]0;owned\x07{ESC}]8;;http://a.example{ESC}\\link{ESC}]8;;{ESC}\\{ESC}P+q{ESC}\\"
    f"{ESC}]52;c;eA==\x07{CSI}2J\x9d0;owned\x9c\rover\x08\x08\x0b\x0c\x7f\x00\u202egnp\u2066 \ud800 [red]x[/red] [/b] "
    "[link=http://a.example]y[/link] :boom:"
)
STYLE = re.compile(r"\x1b\[[0-9;]*m")  # what rich sends for a style
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen_of(kind: type[io.StringIO], patch: pytest.MonkeyPatch) -> io.StringIO:
    """A wide screen that shows stdout and stderr of the program."""
    stream = kind()
    for name in ("sys.stdout", "sys.stderr"):
        patch.setattr(name, stream)
    patch.setenv("TERM", "xterm-256color")
    patch.setenv("COLUMNS", "2000")
    return stream


def assert_harmless(shown: str, *needles: str) -> None:
    """Nothing but text, line breaks, tabs and styles; the hostile text can still be read."""
    rest = STYLE.sub("", shown)
    found = OBEYED.search(rest)
    assert not found, f"{found[0]!r} in {rest[max(0, found.start() - 40) : found.end() + 40]!r}"
    for needle in needles:
        assert needle in rest


def hostile_table() -> Table:
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE))
    return table


PRINTED: dict[str, Callable[[Console], Any]] = {
    "text": lambda screen: screen.print(HOSTILE, soft_wrap=True),
    "styled": lambda screen: screen.print(HOSTILE, style="bold red", soft_wrap=True),
    "rich text": lambda screen: screen.print(Text(HOSTILE, style="dim"), soft_wrap=True),
    "a table": lambda screen: screen.print(hostile_table()),
    "nested": lambda screen: screen.print(Panel(hostile_table())),
    "a rule": lambda screen: screen.rule(HOSTILE),
    "a note": lambda screen: note(HOSTILE),
    "an error": lambda screen: print_error(HOSTILE),
    "progress": lambda screen: progress.Lines(HOSTILE)(3, 3),
}


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
@pytest.mark.parametrize("printed", PRINTED.values(), ids=PRINTED)
def test_no_way_of_printing_sends_control_characters(
    printed: Callable[[Console], Any], kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = screen_of(kind, monkeypatch)
    printed(console(screen))
    assert_harmless(screen.getvalue(), r"\u001b[2J", "[red]", ":boom:")


TEXTS = st.text(st.characters() | st.sampled_from("\x1b\x9b\x07\r\x7f[]:\u202e\ud800"))


@given(TEXTS)
@settings(deadline=None, derandomize=True)
def test_any_text_is_shown_and_not_obeyed(text: str) -> None:
    stream = Terminal()
    screen = console(stream)
    screen.print(text, soft_wrap=True)
    table = Table(text, title=text)
    table.add_row(text)
    screen.print(table)
    assert_harmless(stream.getvalue())


@given(TEXTS)
@settings(deadline=None, derandomize=True)
def test_json_holds_the_text_and_nothing_to_obey(text: str) -> None:
    stream = io.StringIO()
    write_reply(Reply({"text": text, text: 1}, lambda screen: None), stream, as_json=True)
    assert_harmless(stream.getvalue())
    stream.getvalue().encode()
    assert json.loads(stream.getvalue())["text"] == text


def test_visible_is_what_json_writes() -> None:
    assert visible(f"a\tb\n{ESC}[0m\x9b\ud800ü") == "a\tb\n\\u001b[0m\\u009b\\ud800ü"
    assert visible("plain ünï 🙂") == "plain ünï 🙂"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_an_answer_and_its_trace(kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(kind, monkeypatch)
    words = ["a", HOSTILE, "b", HOSTILE + "c", HOSTILE + "d"]

    def decode(tokens: Any) -> str:
        return " ".join(words[token] for token in tokens)

    steps = (
        StepRecord(0, -1.0, greedy_token=0),
        StepRecord(1, -1.0, greedy_token=1, fired=True, candidates=(1, 3), candidate_logprobs=(-1.0, -2.0)),
        StepRecord(3, -1.0, greedy_token=4, fired=True, candidates=(3, 4), candidate_logprobs=(-1.0, -2.0)),
    )
    generation = Generation((0, 1, 3), "length", steps, text=decode((0, 1, 3)), votes=(HOSTILE, "2"))
    show_result(console(screen), describe(HOSTILE, generation, speaking(decode)))
    assert_harmless(screen.getvalue(), r"\u001b[2J", r"\u0007", r"\u000d")


@pytest.fixture
def hostile_run(tmp_path: Path) -> Path:
    """An evaluation whose folder, domains, ids, questions and answers are hostile."""
    folder = make_run(tmp_path / f"{ESC}[2J[red]\x9b", per_domain=20, methods=("greedy", "s2t"), hostile=True)
    name = json.dumps(HOSTILE.replace("\ud800", ""))[1:-1]
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"facts"', f'"{name}"').replace('"facts-', f'"{name}-'), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["report", "RUN", "--format", "md"],
        ["report", "RUN", "--format", "csv"],
        ["report", "RUN", "--format", "json"],
        ["report", "RUN"],
        ["compare", "RUN"],
        ["compare", "RUN", "--methods", "greedy,s2t"],
        ["compare", "RUN", "--methods", HOSTILE],
        ["compare", HOSTILE.replace("\0", "")],
        ["generate", "--pair", HOSTILE, "question"],
        ["eval", "--data", HOSTILE.replace("\0", "")],
        [f"{ESC}[2J"],
        ["compare", f"--{ESC}[2J"],
    ],
)
def test_commands_on_a_terminal(command: list[str], hostile_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = screen_of(Terminal, monkeypatch)
    app.main([str(hostile_run) if word == "RUN" else word for word in command])
    assert_harmless(stream.getvalue())
    assert stream.getvalue()
