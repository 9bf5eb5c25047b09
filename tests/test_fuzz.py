"""A fuzzer over arguments, data files and artefacts: whatever is given, `s2t` answers, or refuses in one line.

The examples are the same every time. For more: `S2T_FUZZ_EXAMPLES=2000 pytest tests/test_fuzz.py --hypothesis-seed=1`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from select_to_think import artefacts
from select_to_think.cli import app
from select_to_think.collect.records import Trajectory
from select_to_think.files import parse_record, write_json_atomic, write_jsonl_atomic
from select_to_think.pairs import bundled_folder
from training_fixtures import make_records

EXAMPLES = int(os.environ.get("S2T_FUZZ_EXAMPLES", "20"))
SECONDS = 60  # that one call may take
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="S2T_FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)

NUMBERS = ("-1", "0", "1", "2", "2.5", "nan", "inf", "-inf", "1e999", "", "x", "4294967296", "9" * 30, "٣", "0x10")
TEXTS = ("", " ", "x", "no/such/path", "/dev/null", ".", "..", "/", "é", "\udcff", "a\nb", "[bold]", "{0}", "x" * 300)
HOSTILE = (None, True, -1, 0, 2**70, 1e308, "", "x", "\u202e", [], {}, [[]], {"a": 1})
RAW = (b"NaN", b"Infinity", b"1e999", b'"\\ud800"', b"\xff", b"", b"[" * 5000, b"1" * 5000)
LONG_WORK = {"slm", "llm", "benchmarks", "data_dir", "trust_remote_code", "device", "figures", "help", "repeats"}


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """The bundled models, read once for all calls."""
    load = artefacts.load_model
    artefacts.load_model = cache(load)  # type: ignore[assignment]
    yield
    artefacts.load_model = load


def call(*arguments: str) -> tuple[int, str, str]:
    """Run `s2t` in this process; (exit code, stdout, stderr). Whatever it raises, or a hang, fails the test."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"{arguments} takes more than {SECONDS} s")

    before, stdin = signal.signal(signal.SIGALRM, late), sys.stdin
    signal.alarm(SECONDS)
    sys.stdin = io.StringIO("What is 1 + 1?\n/why 0\n")
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = app.main(arguments)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        sys.stdin = stdin
    return code, out.getvalue(), err.getvalue()


def assert_answered_or_refused(*arguments: str) -> int:
    """Exit code 0 with an answer, or 2 with nothing on stdout and one line that says why."""
    code, out, err = call(*arguments)
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code in (0, 2), (arguments, code, err)
    assert "Traceback" not in err, (arguments, err)
    if code == 2:
        assert not out and len(said) == 1 and err.splitlines()[-1] == said[0], (arguments, out, err)
    elif "--json" in arguments:
        json.loads(out)
    return code


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands work on: questions, a run, the two halves of another, a collection, a calibration, a pair."""
    folder = tmp_path_factory.mktemp("places")
    questions = [{"id": f"q{n}", "question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(3)]
    write_jsonl_atomic(folder / "questions.jsonl", questions)
    shutil.copytree(bundled_folder("demo"), folder / "demo", ignore=shutil.ignore_patterns("llm", "collection"))
    tiny = ("--data", str(folder / "questions.jsonl"), "--max-new-tokens", "3")
    assert call("eval", *tiny, "--methods", "greedy,s2t", "--out", str(folder / "run"))[0] == 0
    for shard in (1, 2):
        out = str(folder / f"shard-{shard}")
        assert call("eval", *tiny, "--methods", "greedy", "--shard", f"{shard}/2", "--out", out)[0] == 0
    assert call("measure", *tiny, "--trigger-budget", "0.5", "--out", str(folder / "run"))[0] == 0
    (folder / "collection").mkdir()
    records = [parse_record(Trajectory, json.dumps(each).encode(), "", remedy="") for each in make_records(24)]
    digest = write_jsonl_atomic(folder / "collection" / "shard-00000.jsonl", (each.to_json() for each in records))
    shard = {"file": "shard-00000.jsonl", "sha256": digest, "items": [], "question_keys": []}
    parts: dict[str, Any] = {name: {} for name in ("config", "decode", "fingerprints", "items", "provenance")}
    manifest = {"schema": 1, **parts, "complete": True, "shards": [shard]}
    write_json_atomic(folder / "collection" / "manifest.json", manifest)
    return folder


def commands(places: Path, out: Path) -> dict[str, list[str]]:
    """Every command that takes little time, with what it needs."""
    data = ["--data", str(places / "questions.jsonl")]
    tiny, to = [*data, "--max-new-tokens", "2"], ["--out", str(out)]
    collected = ["--collection", str(places / "collection"), *to]
    return {
        "generate": ["What is 1 + 1?", "--max-new-tokens", "2", "--json"],
        "chat": ["--max-new-tokens", "2"],
        "advise": [*tiny, *to],
        "measure": tiny,
        "calibrate": [*tiny, "--no-llm", *to],
        "collect": [*tiny, "--items", "1", *to],
        "eval": [*tiny, "--methods", "greedy", *to],
        "merge": [str(places / "shard-1"), str(places / "shard-2"), *to],
        "compare": [str(places / "run"), "--methods", "greedy,s2t"],
        "report": [str(places / "run"), *to],
        "ablate": [*tiny, "--consult-rates", "0", "--segment-lengths", "1", *to],
        "train scorer": [*collected, "--epochs", "0.1", "--lora-rank", "1"],
        "train trigger": [*collected, "--epochs", "0.1"],
        "train distill": [*collected, "--epochs", "0.1", "--lora-rank", "1", "--max-new-tokens", "2"],
        "train verifier": [*tiny, "--items", "1", *to],
        "export": ["--format", "vllm", *to],
        "pair info": [],
    }


@cache
def flags(command: str) -> list[tuple[str, bool, Sequence[str]]]:
    """(flag, whether it takes no value, values to try) of a command."""
    found: Any = typer.main.get_command(app.build())
    for name in command.split():
        found = found.commands[name]
    options = [each for each in found.params if each.param_type_name == "option" and each.name not in LONG_WORK]
    return [
        (each.opts[0], each.is_flag, NUMBERS if each.metavar in ("INT", "FLOAT") else (*TEXTS, *NUMBERS))
        for each in options
    ]


@fuzz
@given(draw=st.data())
def test_arguments(draw: st.DataObject, places: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("out") / "new"
    offered = commands(places, out)
    command = draw.draw(st.sampled_from(sorted(offered)))
    arguments = [*command.split(), *offered[command]]
    tried = st.lists(st.sampled_from(flags(command)), max_size=3) if flags(command) else st.just([])
    for flag, alone, values in draw.draw(tried):
        arguments += [flag] if alone else [flag, draw.draw(st.sampled_from(values))]
    with contextlib.chdir(out.parent):
        event(f"{command}: exit code {assert_answered_or_refused(*arguments)}")
    assert not out.with_name("new.training").exists(), "what was refused must not block the next run"


values = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20), st.integers(), st.floats())
records = st.fixed_dictionaries(
    {"id": values, "question": values, "answer": values},
    optional=dict.fromkeys(("domain", "split", "answer_type", "choices", "meta", "subject", "prompt", "extra"), values),
)
lines = st.one_of(records.map(lambda record: json.dumps(record).encode()), st.binary(max_size=40), st.sampled_from(RAW))


@fuzz
@given(content=st.lists(lines, max_size=4))
def test_data_files(content: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("data")
    good = {"id": "good", "question": "What is 1 + 1?", "answer": "2"}
    (folder / "d.jsonl").write_bytes(b"\n".join([json.dumps(good).encode(), *content]) + b"\n")
    out = folder / "out"
    done = (
        "eval",
        "--data",
        str(folder / "d.jsonl"),
        "--methods",
        "greedy",
        "--max-new-tokens",
        "2",
        "--out",
        str(out),
    )
    if assert_answered_or_refused(*done) == 0:
        assert call("report", str(out))[0] == 0, "what was evaluated can be reported"


SCORER, TINY = "demo/scorers/activated-anchored", "--max-new-tokens 2"
ARTEFACTS = {  # file below `places` -> the command that reads it
    "run/results.json": "report {0}/run --format json",
    "run/records-s2t.jsonl": "report {0}/run --out {0}/report.html",
    "run/run.json": "compare {0}/run --methods greedy,s2t",
    "run/measure.json": "report {0}/run --format md",
    "shard-1/run.json": "merge {0}/shard-1 {0}/shard-2 --out {0}/merged",
    "shard-1/results.json": "merge {0}/shard-1 {0}/shard-2 --out {0}/merged",
    "shard-2/records-greedy.jsonl": "merge {0}/shard-1 {0}/shard-2 --out {0}/merged",
    "collection/manifest.json": "train trigger --collection {0}/collection --epochs 0.1 --out {0}/t",
    "collection/shard-00000.jsonl": "train trigger --collection {0}/collection --epochs 0.1 --out {0}/t",
    "demo/calibration.json": "generate q --max-new-tokens 2 --method s2t --calibration {0}/demo/calibration.json",
    **{
        f"{SCORER}/{file}": f"generate q {TINY} --scorer {{0}}/{SCORER}"
        for file in ("scorer.json", "adapter_config.json", "adapter_model.safetensors", "score_head.safetensors")
    },
    **{
        f"demo/trigger/{file}": "generate q --max-new-tokens 2 --trigger learned --trigger-head {0}/demo/trigger"
        for file in ("trigger_head.json", "trigger_head.safetensors")
    },
    **{
        f"demo/verifier/{file}": "generate q --max-new-tokens 4 --method mentor-mlp --consult-rate 1 "
        "--verifier {0}/demo/verifier"
        for file in ("verifier.json", "verifier.safetensors")
    },
    **{
        f"demo/distill/kd/{file}": "generate q --max-new-tokens 2 --method distill --distill {0}/demo/distill/kd"
        for file in ("distill.json", "adapter_config.json")
    },
    "demo/distill/kd/trained_on.json": "eval --data {0}/questions.jsonl --methods distill --max-new-tokens 2 "
    "--distill {0}/demo/distill/kd --out {0}/r",
}


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every part of a JSON value; of a long list only the ends."""
    found = [path]
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        if isinstance(value, dict) or name < 2 or name == len(value) - 1:
            found += spots(entry, (*path, name))
    return found


def changed(content: bytes, draw: st.DataObject) -> bytes:
    """A JSON document or line with one part replaced, removed, doubled or added."""
    value = {"": json.loads(content)}
    *way, last = ("", *draw.draw(st.sampled_from(spots(value[""]))))
    holder: Any = value
    for name in way:
        holder = holder[name]
    kind = draw.draw(st.sampled_from(("replace", "raw", "remove", "add")))
    if kind == "remove" and way:
        del holder[last]
    elif kind == "add" and isinstance(holder[last], dict):
        holder[last]["unknown"] = 1
    elif kind == "raw":
        holder[last] = "@raw@"
        return json.dumps(value[""]).encode().replace(b'"@raw@"', draw.draw(st.sampled_from(RAW)))
    else:
        holder[last] = draw.draw(st.sampled_from(HOSTILE))
    return json.dumps(value[""]).encode()


def damaged(content: bytes, json_lines: bool, json_file: bool, draw: st.DataObject) -> bytes:
    """What a file may become: cut, with other bytes in it, or with other JSON."""
    kind = draw.draw(st.sampled_from(("json", "json", "json", "cut", "bytes") if json_file else ("cut", "bytes")))
    if kind == "cut":
        return content[: draw.draw(st.integers(0, len(content) - 1))]
    if kind == "bytes":
        at = draw.draw(st.integers(0, len(content) - 1))
        return content[:at] + draw.draw(st.sampled_from((b"\xff\xff", b"\x00", b"\x7f\xc0"))) + content[at + 2 :]
    if not json_lines:
        return changed(content, draw)
    parts = content.splitlines(keepends=True)
    at = draw.draw(st.integers(0, len(parts) - 1))
    line = parts[at] * 2 if draw.draw(st.booleans()) else changed(parts[at], draw) + b"\n"
    return b"".join([*parts[:at], line, *parts[at + 1 :]])


@fuzz
@given(draw=st.data())
def test_artefacts(draw: st.DataObject, places: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy") / "places"
    file = draw.draw(st.sampled_from(sorted(ARTEFACTS)))
    shutil.copytree(places, copy, ignore=shutil.ignore_patterns(*({"demo"} - {file.split("/")[0]}), "*-bins", "slm"))
    content = damaged((copy / file).read_bytes(), file.endswith(".jsonl"), "json" in Path(file).suffix, draw)
    (copy / file).write_bytes(content)
    event(f"exit code {assert_answered_or_refused(*ARTEFACTS[file].format(copy).split())}")
    shutil.rmtree(copy)
