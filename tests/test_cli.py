"""The command line without models: help, errors, exit codes, what goes where, and what is imported when."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import typer
from rich.console import Console

from analysis_run import make_run
from fake_session import speaking
from select_to_think.checked import Checked
from select_to_think.cli import app, progress
from select_to_think.cli.command import add_command, explain
from select_to_think.cli.generate import describe
from select_to_think.cli.options import Only, completing
from select_to_think.cli.output import Reply
from select_to_think.cli.trace import marked, weighed
from select_to_think.config import DecodeConfig, PairConfig, SelectConfig
from select_to_think.evaluation.tracing import step_json
from select_to_think.methods import METHODS
from select_to_think.structures import Generation, S2TError, StepRecord
from select_to_think.triggers.table import TRIGGERS

COMMANDS = (
    "demo",
    "generate",
    "chat",
    "serve",
    "playground",
    "advise",
    "measure",
    "calibrate",
    "collect",
    "eval",
    "merge",
    "compare",
    "report",
    "train scorer",
    "train trigger",
    "train verifier",
    "train push",
    "ablate",
    "train distill",
    "bench decode",
    "bench remote",
    "bench serve",
    "bench train",
    "export",
    "pair info",
)
PASSED_ON = ("lm-eval",)  # whose flags and help are another program's
OnlySeed = Annotated[DecodeConfig, Only(("seed",), defaults=(("seed", 7),))]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `s2t` in this process; (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = app.main(arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def program(command: Callable[..., Reply], **settings: Any) -> Callable[..., int]:
    """A program with the one command `work`, run like `s2t`."""
    built = typer.Typer()
    built.callback()(lambda: None)
    add_command(built, "work", command, **settings)

    def call(*arguments: str) -> int:
        before, app.build = app.build, lambda: built
        try:
            return app.main(("work", *arguments))
        finally:
            app.build = before

    return call


def reply(**payload: Any) -> Reply:
    return Reply(payload, lambda console: console.print(str(payload)))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(run: Callable[..., tuple[int, str, str]], command: str) -> None:
    code, out, err = run(*command.split(), "--help")
    assert code == 0 and not err
    assert f"s2t {command}" in out and "--json" in out
    assert "\x1b" not in out, "colours although nobody sees them"


@pytest.mark.parametrize("command", ["eval", "measure", "collect", "advise"])
def test_a_command_needs_no_flag(command: str, run: Callable[..., tuple[int, str, str]], monkeypatch: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise S2TError("seen")

    monkeypatch.setattr(f"select_to_think.cli.{'evaluate' if command == 'eval' else command}.choose_items", refuse)
    assert run(command) == (2, "", "error: seen\n")


def test_the_commands_are_those_of_the_program() -> None:
    root = typer.main.get_command(app.build())
    found = [
        f"{name} {inner}".strip() for name, c in root.commands.items() for inner in getattr(c, "commands", {"": None})
    ]
    assert sorted(found) == sorted((*COMMANDS, *PASSED_ON))


def test_no_arguments_show_the_help(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run()
    assert code == 2 and "Commands" in out + err and "error:" not in err


def test_version(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("--version") == (0, "s2t 0.1.0\n", "")


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        ("evla", "'eval'"),
        ("eval --metods greedy", "--methods"),
        ("eval --max-new-tokens many", "--max-new-tokens"),
        ("eval --max-new-tokens 0", "max_new_tokens must be at least 1"),
        ("eval --trigger-budget 1.5", "trigger_budget must be between"),
        ("eval --trigger-budget nan", "trigger_budget must be between"),
        ("eval --scorer-mode activate", "did you mean 'activated'"),
        ("eval --dtype float23", "did you mean 'float32'"),
        ("eval --split tset", "did you mean 'test'"),
        ("eval --slm somewhere", "--data"),
        ("eval --benchmarks gsm8 --data-dir .", "did you mean 'gsm8k'"),
        ("eval --benchmarks gsm8k --data-dir .", "gsm8k_test.jsonl"),
        ("eval --benchmarks ,", "no benchmark named"),
        ("eval --benchmarks gsm8k --data x.jsonl", "exclude each other"),
        ("eval --data-dir .", "--benchmarks"),
        ("eval --data x.jsonl --split test", "--split goes with"),
        ("eval --limit 1 --shots 2", "need a benchmark with a train split"),
        ("eval --limit 1 --template nonsense", "{question}"),
        ("eval --limit 1 --seeds 1,x", "got '1,x'"),
        ("eval --limit 1 --shard 2", "for example 1/4"),
        ("eval --limit 1 --shard 3/2", "got '3/2'"),
        ("calibrate --benchmarks gsm8k --split test", "evaluation only"),
        ("collect --benchmarks svamp", "no split 'train'"),
        ("collect --data my.test.jsonl", "named test"),
        ("merge no/such/run --out x", "no/such/run"),
        ("eval --data no/such/file.jsonl", "no/such/file.jsonl"),
        ("generate", "no question"),
        ("generate q --slm ./no/model", "there is no folder ./no/model"),
        ("generate q --device cuda:99", "no usable device 'cuda:99'"),
        ("train scorer", "--collection"),
        ("pair info --pair dmeo", "did you mean 'demo'"),
        ("report no/such/run", "no/such/run"),
    ],
)
def test_mistakes_are_one_line_with_a_remedy(
    run: Callable[..., tuple[int, str, str]], arguments: str, needle: str
) -> None:
    code, out, err = run(*arguments.split())
    lines = err.strip().splitlines()
    assert code == 2 and not out
    assert lines[-1].startswith("error: ") and needle in lines[-1], err
    assert "Traceback" not in err and sum(line.startswith("error:") for line in lines) == 1


def test_a_broken_line_of_a_data_file_is_named(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"id": "a", "question": "q", "answer": "1"}\n{"id": "b", oops\n')
    code, _, err = run("eval", "--data", str(path))
    assert code == 2 and "line 2" in err


def test_json_is_the_only_thing_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    def noisy() -> Reply:
        """Print by Python, by the file descriptor and by a child."""
        print("from Python")
        os.write(1, b"from native code\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        return reply(value=1.5, missing=float("nan"), nested=[float("inf")], text="ü")

    call = program(noisy)
    assert call("--json") == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"value": 1.5, "missing": None, "nested": [None], "text": "ü"}
    assert out.count("\n") == 1
    assert all(f"from {source}" in err for source in ("Python", "native code", "a child"))
    os.write(1, b"stdout is back\n")
    assert capfd.readouterr().out == "stdout is back\n"


def test_json_leaves_stdout_empty_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    def wrong() -> Reply:
        """Fail."""
        raise S2TError("first line\nsecond line: do this")

    assert program(wrong)("--json") == 2
    assert capfd.readouterr() == ("", "error: first line second line: do this\n")


def test_a_defect_keeps_its_traceback() -> None:
    def broken() -> Reply:
        """Fail."""
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError):
        program(broken)()


def test_a_completion_that_cannot_be_written_is_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    assert app.main(["--install-completion", "bash"]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {tmp_path}") and "--show-completion" in err and err.count("\n") == 1


def test_ctrl_c_says_how_to_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    def stopped() -> Reply:
        """Be interrupted."""
        raise KeyboardInterrupt

    assert program(stopped, resume="run it again")() == 130
    assert capfd.readouterr() == ("", "stopped; run it again\n")


class OutOfMemoryError(RuntimeError):
    """Stands for torch's, which is known by its name and module."""


OutOfMemoryError.__module__ = "torch"


@pytest.mark.parametrize(
    ("error", "needle"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), "out/x"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), "/root/x"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "read-only"),
        (OutOfMemoryError("CUDA out of memory"), "--max-batch"),
    ],
)
def test_errors_of_the_machine_have_a_remedy(error: Exception, needle: str) -> None:
    line = explain(error)
    assert line is not None and needle in line and "\n" not in line


@pytest.mark.parametrize("error", [ValueError("x"), OSError("no number"), RuntimeError("shape"), KeyError("k")])
def test_other_errors_have_none(error: Exception) -> None:
    assert explain(error) is None


def test_flags_come_from_the_configurations() -> None:
    seen: list[Any] = []

    def work(pair: PairConfig, decode: DecodeConfig, select: SelectConfig, extra: int = 3) -> Reply:
        """Take everything."""
        seen.append((pair, decode, select, extra))
        return reply()

    call = program(work)
    assert call() == 0
    assert seen.pop() == (PairConfig(), DecodeConfig(), SelectConfig(), 3)
    assert call("--no-early-stop", "--trigger", "margin", "--top-p", "0.5", "--extra", "4", "--slm", "x") == 0
    expected = DecodeConfig(early_stop=False, top_p=0.5)
    assert seen.pop() == (PairConfig(slm="x"), expected, SelectConfig(trigger="margin"), 4)


def test_only_some_flags_of_a_configuration(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[DecodeConfig] = []

    def work(decode: OnlySeed) -> Reply:
        """Take the seed."""
        seen.append(decode)
        return reply()

    call = program(work)
    assert call() == 0 and seen == [DecodeConfig(seed=7)]
    capfd.readouterr()
    assert call("--top-p", "0.5") == 2
    assert "--top-p" in capfd.readouterr().err


def test_every_field_has_help_and_a_fitting_flag(run: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = run("eval", "--help")
    for config in (PairConfig, DecodeConfig, SelectConfig):
        for spec in fields(config):
            assert spec.metadata["help"].strip().endswith(".")
            assert f"--{spec.name.replace('_', '-')}" in out


def parameters() -> Iterator[tuple[str, Any]]:
    """(command, flag) of the whole program."""
    pending = [("", typer.main.get_command(app.build()))]
    while pending:
        name, command = pending.pop()
        pending += [(f"{name} {inner}".strip(), each) for inner, each in getattr(command, "commands", {}).items()]
        yield from ((name, parameter) for parameter in command.params)


def test_names_of_methods_and_triggers_come_from_their_tables() -> None:
    tables = {"trigger": TRIGGERS, "triggers": TRIGGERS, "method": METHODS, "methods": METHODS}
    found = [(command, flag, tables[flag.name]) for command, flag in parameters() if flag.name in tables]
    assert {"generate", "eval", "collect", "ablate"} <= {command for command, _, _ in found}
    some = {
        "ablate": lambda method: method.mentor,
        "bench remote": lambda method: method.asks_llm,
        "export": lambda method: method.uses in ("scorer", "distill"),
    }
    for command, flag, table in found:
        if command == "compare":  # names what a run holds
            continue
        names = [
            name for name, record in table.items() if command not in some or table is TRIGGERS or some[command](record)
        ]
        assert flag.help.count(f"[{', '.join(names)}]".replace("[", r"\[", 1)) == 1, (command, flag.help)
        assert [item.value for item in flag.shell_complete(None, "")] == names, command


@pytest.mark.parametrize(
    ("begun", "offered"),
    [
        ("be", ["beta"]),
        ("alpha,be", ["alpha,beta"]),
        ("nothing", []),
        ("beta,alpha,a", ["beta,alpha,alpha", "beta,alpha,also"]),
    ],
)
def test_the_last_of_several_names_is_completed(begun: str, offered: list[str]) -> None:
    assert completing(("alpha", "beta", "also"))(begun) == offered


def test_names_that_a_flag_takes_are_all_in_its_help() -> None:
    app.build()  # imports all of them
    fixed = [(flag, get_args(hint)) for config in subclasses(Checked) for flag, hint in literals(config)]
    assert len(fixed) > 5
    shown = {flag.name: flag.help for _, flag in parameters()}
    for name, values in fixed:
        assert all(value in shown[name] for value in values), name


def subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for each in kind.__subclasses__():
        yield from (each, *subclasses(each))


def literals(config: type[Any]) -> Iterator[tuple[str, Any]]:
    return ((name, hint) for name, hint in get_type_hints(config).items() if get_origin(hint) is Literal)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[2]), **environment}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=settings, timeout=120)


@pytest.mark.parametrize(
    "code",
    [
        "import select_to_think",
        "import select_to_think.methods",
        "from select_to_think.cli.app import main; main(['--help'])",
        "from select_to_think.cli.app import main; main(['eval', '--help'])",
        "from select_to_think.cli.app import main; main(['eval', '--methods'])",
        "from select_to_think.cli.app import main; main(['report', 'nowhere'])",
        "from select_to_think.cli.app import main; main(['generate', 'a', '--method', 'greeedy'])",
        "from select_to_think.cli.app import main; main(['eval', '--methods', 'greedy,s2t-locl'])",
        "from select_to_think.cli.app import main; main(['collect', '--triggers', 'entropyy'])",
        "from select_to_think.cli.app import main; main(['serve', '--pair', 'dmo'])",
    ],
)
def test_light_commands_import_nothing_heavy(code: str) -> None:
    heavy = ("torch", "transformers", "peft", "scipy")
    check = f"{code}\nimport sys; print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    done = python("-c", check)
    assert done.stderr.strip().splitlines()[-1] == "[]", done.stderr


def test_the_module_runs_and_is_not_coloured_in_a_pipe() -> None:
    done = python("-m", "select_to_think", "eval", "--scorer-mode", "nonsense")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: unknown scorer mode 'nonsense'") and "\x1b" not in done.stderr


def test_a_reader_that_stops_early_is_no_error() -> None:
    for words, reader in (("--help", "head -c 1"), ("pair info", "true"), ("pair info --json", "true")):
        done = in_a_shell(f"{sys.executable} -m select_to_think {words} | {reader}; exit ${{PIPESTATUS[0]}}")
        assert (done.returncode, done.stderr) == (0, ""), words


def in_a_shell(command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    there = {**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[2]), **settings}
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=there, timeout=120)


def test_nobody_who_reads_stderr_is_no_error(tmp_path: Path) -> None:
    """It is told where results go, which nobody reads."""
    eval = f"eval --methods greedy --limit 1 --out {tmp_path}/out"
    assert in_a_shell(f"{sys.executable} -m select_to_think {eval} 2> >(true)").returncode == 0
    assert (tmp_path / "out" / "results.json").exists()


def test_signs_that_an_encoding_lacks_are_written_out() -> None:
    done = in_a_shell(f"{sys.executable} -m select_to_think measure --limit 1", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "95 % interval" not in done.stderr and "\\u" in done.stdout


def test_a_preset_that_sets_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["measure", "--preset", "mentorcollab-paper"], ["ablate", "--preset", "s2t-paper"]):
        assert app.main(words) == 2
        assert f"{words[-1]} sets nothing of this command" in capsys.readouterr().err


def test_progress_without_a_terminal_is_a_few_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, *(float(second) for second in range(0, 300, 3))])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with progress.progress("working") as report:
        for done in range(50, 101):
            report(done, 100)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert not out and 5 < len(lines) < 15 and "\x1b" not in err
    assert lines[0] == "working: 55/100 in 0:15, 2:15 left"  # what was done before this run says nothing of its speed
    assert lines[-1].startswith("working: 100/100 in") and "left" not in lines[-1]


def letters(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode("utf-8", errors="replace")


def example() -> Generation:
    def step(token: str, greedy: str | None = None, *, fired: bool = False) -> StepRecord:
        options = (ord(greedy or token), ord(token)) if fired else ()
        return StepRecord(
            ord(token), -1.0, options[0] if options else ord(token), None, fired, options, (-1.0,) * len(options)
        )

    steps = (step("a"), step("b", fired=True), step("c", "x", fired=True))
    return Generation(tuple(s.token for s in steps), "stop", steps, text="abc")


def steps_of(answer: Generation) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = describe("q", answer, speaking(letters))["steps"]
    return steps


def segment(text: str, *others: str, greedy: str) -> list[StepRecord]:
    """The steps of a segment that was taken from several."""
    tokens = [tuple(map(ord, each)) for each in (text, *others)]
    first = StepRecord(
        ord(text[0]), -1.0, ord(greedy[0]), None, True, tuple(each[0] for each in tokens), (-1.0,) * len(tokens)
    )
    rest = [StepRecord(ord(letter), -1.0, ord(letter)) for letter in text[1:]]
    return [replace(first, segments=tuple(tokens)), *rest]


def bytes_of(text: str) -> list[StepRecord]:
    """The steps of a character whose first token triggered."""
    tokens = text.encode()
    first = StepRecord(tokens[0], -1.0, tokens[0], None, True, (tokens[0],), (-1.0,))
    return [first, *(StepRecord(token, -1.0, token) for token in tokens[1:])]


@pytest.mark.parametrize(
    ("steps", "plain", "runs"),
    [
        (segment(" two three", " drei", greedy=" drei"), " [two three]", [" ", "two three"]),
        (segment("xy", "two", greedy="two"), "[two -> xy]", ["xy"]),
        (
            [*segment("xy", "two", greedy="two"), *segment("ab", "two", greedy="two")],
            "[two -> xy][two -> ab]",
            ["xyab"],
        ),
        (segment("xy", "two", greedy="two")[:1], "[two -> x]", ["x"]),
        (bytes_of("€"), "[€]", ["€"]),
        ([*bytes_of("€"), StepRecord(ord("b"), -1.0, ord("b"))], "[€]b", ["€", "b"]),
    ],
)
def test_what_was_decided_together_is_marked_as_a_whole(steps: list[StepRecord], plain: str, runs: list[str]) -> None:
    shown = steps_of(Generation(tuple(step.token for step in steps), "length", tuple(steps)))
    assert marked(shown, colours=False).plain == plain
    coloured = marked(shown, colours=True)
    marks = ["underline" in str(coloured.get_style_at_offset(Console(), at)) for at in range(len(coloured))]
    grouped = [
        "".join(letter for _, letter in group)
        for _, group in groupby(zip(marks, coloured.plain, strict=True), itemgetter(0))
    ]
    assert grouped == runs


@pytest.mark.parametrize("fired", [False, True])
def test_where_the_llm_failed_is_marked(fired: bool) -> None:
    options = (ord("a"),) if fired else ()
    steps = (
        StepRecord(ord("a"), -1.0, ord("a"), None, fired, options, (-1.0,) * len(options), llm_failed=True),
        StepRecord(ord("b"), -1.0, ord("b")),
    )
    shown = steps_of(Generation((97, 98), "length", steps))
    assert marked(shown, colours=False).plain == "[a: no LLM]b"
    assert [(span.start, span.end, span.style) for span in marked(shown, colours=True).spans] == [
        (0, 1, "underline red")
    ]


def test_marks_without_colours() -> None:
    assert marked(steps_of(example()), colours=False).plain == "a[b][x -> c]"


def test_marks_with_colours() -> None:
    shown = marked(steps_of(example()), colours=True)
    assert shown.plain == "abc"
    assert [(span.start, span.style) for span in shown.spans] == [(1, "underline"), (2, "bold underline magenta")]
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, no_color=True, color_system="truecolor").print(shown)
    assert "35m" not in stream.getvalue(), "NO_COLOR leaves no colour"


def test_scores_of_masked_candidates_can_be_shown() -> None:
    from select_to_think.cli.trace import candidates

    step = StepRecord(97, 0.0, candidates=(97, 98), candidate_logprobs=(-1.0, -2.0), scores=(float(-np.inf), 0.5))
    assert candidates(step_json(letters, step)) == "b: 0.50  a: -inf"


@pytest.mark.parametrize("width", [60, 80, 140])
def test_no_column_of_the_choices_is_lost(width: int) -> None:
    first = segment("two long words " * 4, "drei " * 9, greedy="drei")[0]
    steps = steps_of(Generation((first.token,), "stop", (first,)))
    stream = io.StringIO()
    Console(file=stream, width=width).print(weighed([{**each, "statistic": 0.123456} for each in steps]))
    lines = stream.getvalue().splitlines()
    assert all(len(line) <= width for line in lines) and "…" not in stream.getvalue()
    assert lines[1].split() == ["step", "statistic", "greedy", "choice", "by", "candidates:", "score"] or width < 80
    shown = stream.getvalue()
    assert "0.123" in shown and shown.count("drei") == 18 and shown.count("long") == 8 and "-1.00" in shown


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", per_domain=2, methods=("greedy", "s2t"))


def test_a_report_goes_to_its_file_or_to_stdout(run: Callable[..., tuple[int, str, str]], evaluated: Path) -> None:
    code, out, _ = run("report", str(evaluated))
    page = evaluated / "report.html"
    assert code == 0 and out == f"report: {page.resolve()}\n" and page.read_text("utf-8").startswith("<!DOCTYPE html>")
    code, out, err = run("report", str(evaluated), "--format", "csv")
    assert code == 0 and err == "" and out.startswith("run,method,domain,accuracy") and out.count("\n") == 9
    target = evaluated / "new" / "results.md"
    assert run("report", str(evaluated), "--format", "md", "--out", str(target))[0] == 0
    assert target.read_text("utf-8").startswith("# Select to Think")
    code, out, _ = run("report", str(evaluated), "--format", "json", "--json")
    assert code == 0 and json.loads(json.loads(out)["text"])["schema"] == 1
    code, _, err = run("report", str(evaluated), "--format", "htm")
    assert code == 2 and "did you mean 'html'?" in err


def test_figures_are_drawn_beside_the_report(run: Callable[..., tuple[int, str, str]], evaluated: Path) -> None:
    code, out, _ = run("report", str(evaluated), "--figures", str(evaluated / "figures"), "--json")
    drawn = [Path(name) for name in json.loads(out)["figures"]]
    assert code == 0 and sorted(drawn) == sorted((evaluated / "figures").iterdir())
    assert all(path.suffix == ".svg" for path in drawn)


def test_a_narrow_terminal_loses_whole_columns_and_says_so() -> None:
    from select_to_think.analysis.tables import Column, Table
    from select_to_think.cli.tables import show_table

    columns = (
        Column("method", "Method", "text"),
        Column("accuracy", "Accuracy", "percent", error_key="stderr"),
        Column("llm_forwards_per_answer", "LLM forwards", "number"),
        Column("n_items", "Items", "count"),
    )
    row = {"method": "s2t-local", "accuracy": 0.5, "stderr": 0.1, "llm_forwards_per_answer": 2.5, "n_items": 12345678}
    shown = {}
    for width in (120, 45):
        stream = io.StringIO()
        show_table(Console(file=stream, width=width), Table("t", columns, (row,)))
        shown[width] = stream.getvalue()
        assert all(len(line) <= width for line in stream.getvalue().splitlines())
    assert "12,345,678" in shown[120] and "no room" not in shown[120]
    assert "12,345,678" not in shown[45] and "50.0 ± 10.0 %" in shown[45]
    assert " ".join(shown[45].split()).endswith("no room for: Items (--json has them)")


def test_many_domains_are_shown_in_parts_and_no_number_is_cut() -> None:
    from select_to_think.analysis.tables import METHOD, Column, Table
    from select_to_think.cli.tables import show_table

    names = [f"benchmark-{number}" for number in range(15)]
    columns = [Column(f"accuracy:{name}", name, "percent", error_key=f"stderr:{name}") for name in names]
    accuracies = {f"accuracy:{name}": 0.1 + number / 20 for number, name in enumerate(names)}
    row = {"method": "s2t-local", **accuracies, **{f"stderr:{name}": 0.01 for name in names}}
    table = Table("Accuracy by domain", (METHOD, *columns), (row,))
    for width, count in ((80, 4), (300, 1)):
        stream = io.StringIO()
        show_table(Console(file=stream, width=width), table)
        shown = stream.getvalue()
        assert all(len(line) <= width for line in shown.splitlines()) and "…" not in shown
        assert [shown.count(column.show(row)) for column in columns] == [1] * 15
        assert all(shown.count(word) == 1 for word in ("Accuracy by domain", *(f"{name} " for name in names)))
        assert shown.count("s2t-local") == shown.count("Method") == count
