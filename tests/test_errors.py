"""What the user can get wrong is one line, before the work, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fake_session
from analysis_run import make_run
from fake_session import speaking
from select_to_think import config
from select_to_think.analysis.runs import load_run
from select_to_think.checked import Checked, value_types
from select_to_think.cli import app
from select_to_think.cli.generate import describe
from select_to_think.cli.output import console
from select_to_think.cli.progress import Lines, progress
from select_to_think.cli.trace import show_result
from select_to_think.files import make_room, only_writer, parse_record, read_json, write_text_atomic
from select_to_think.models.adapter import read_tensors
from select_to_think.models.layers import load_layers, save_layers
from select_to_think.models.prompting import prompt_ids
from select_to_think.structures import Generation, S2TError, StepRecord
from select_to_think.training import settings
from select_to_think.training.folders import ANSWERS, SETTINGS, begin, working_folder
from select_to_think.training.head import fit_head
from select_to_think.training.scorer import train_scorer
from select_to_think.training.settings import ScorerConfig, VerifierTrainConfig
from select_to_think.triggers.calibration import QUANTILES, Calibration

CONFIGS = [
    each
    for module in (config, settings)
    for each in vars(module).values()
    if dataclasses.is_dataclass(each) and issubclass(each, Checked)
]
NUMBERS = [
    (each, spec.name, value_types(each)[spec.name])
    for each in CONFIGS
    for spec in dataclasses.fields(each)
    if {int, float} & set(value_types(each)[spec.name])
]


@pytest.mark.parametrize(("kind", "name", "types"), NUMBERS)
def test_every_number_is_one_and_finite(kind: Any, name: str, types: tuple[Any, ...]) -> None:
    wrong = [math.inf, -math.inf, math.nan, 10**30, "3", True, *([2.5] if int in types else [])]
    for value in wrong:
        with pytest.raises(S2TError, match=rf"^{name} must be "):
            kind(**{name: value})


@pytest.mark.parametrize(("kind", "settings"), [
    (ScorerConfig, {"epochs": 0}), (VerifierTrainConfig, {"epochs": 0.0}),
    (ScorerConfig, {"report_to": "nowhere"}), (config.MentorConfig, {"order": "ba"}),
    (config.DecodeConfig, {"seed": 2**32}), (config.DecodeConfig, {"early_stop": "no"}),
    (config.PairConfig, {"slm": 3}),
])  # fmt: skip
def test_settings_without_a_meaning_are_refused(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(S2TError, match=next(iter(settings)).replace("_", "[_ ]")):
        kind(**settings)


def test_the_largest_seed_and_the_defaults_are_fine() -> None:
    assert config.DecodeConfig(seed=2**32 - 1).seed == config.LARGEST_SEED
    assert all(kind() for kind in CONFIGS)
    assert config.DecodeConfig(max_new_tokens=np.int64(3), temperature=1).max_new_tokens == 3  # type: ignore[arg-type]


GOOD = {"slm_fingerprint": "a", "llm_fingerprint": None, "quantiles": {"kl": [0.0] * QUANTILES}, "n_steps": 1,
        "item_ids": ["i"], "question_keys": ["k"], "schema": 1}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), [
    (lambda v: v.pop("n_steps"), "n_steps is missing"), (lambda v: v.update(more=1), "more is unknown"),
    (lambda v: v.update(n_steps="1"), "n_steps: Input should be a valid integer, got '1'"),
    (lambda v: v.update(n_steps=1.5), "n_steps: "), (lambda v: v.update(schema=2), "schema is 2, this version reads 1"),
    (lambda v: v["quantiles"].update(kl=[0.0]), "1001 rising numbers"),
    (lambda v: v["quantiles"]["kl"].__setitem__(3, -1.0), "1001 rising numbers"),
    (lambda v: v["quantiles"]["kl"].__setitem__(0, None), "quantiles.kl.0: "),
    (lambda v: v["quantiles"]["kl"].__setitem__(0, math.nan), "not valid JSON"),
    (lambda v: v.update(item_ids=["\ud800"]), "not valid JSON"), (lambda v: v.update(item_ids={}), "item_ids: "),
])  # fmt: skip
def test_a_file_must_hold_what_its_schema_says(change: Callable[[Any], Any], says: str, tmp_path: Path) -> None:
    value = json.loads(json.dumps(GOOD))
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(value))
    assert Calibration.load(path).n_steps == 1
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(S2TError) as error:
        Calibration.load(path)
    assert str(error.value).startswith(str(path)) and says in str(error.value)
    assert "`s2t calibrate`" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["1e999", "[" + "9" * 400 + ".0]", "NaN", "-Infinity", '"\\ud800"', "[" * 9999])
def test_numbers_and_texts_that_cannot_be_written_again_are_not_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(f'{{"a": {text}}}')
    with pytest.raises(S2TError, match="not valid JSON"):
        read_json(tmp_path / "x", remedy="")


def test_weights_that_are_no_numbers_or_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    slm: Any = SimpleNamespace(
        name="slm",
        model=SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=4))),
    )
    file = tmp_path / "w.safetensors"

    def layers(*shapes: tuple[int, int], value: float = 0.5) -> None:
        save_layers(file, tuple((np.full(s, value, np.float32), np.full(s[0], value, np.float32)) for s in shapes))

    layers((3, 4), (1, 3))
    assert len(load_layers(file, slm, remedy="r")) == 2
    for shapes in ([(3, 5), (1, 3)], [(3, 4), (1, 2)], [(3, 4), (2, 3)], [(2, 4)]):
        layers(*shapes)
        with pytest.raises(S2TError, match="does not fit"):
            load_layers(file, slm, remedy="r")
    for value in (math.nan, math.inf):
        layers((1, 4), value=value)
        with pytest.raises(S2TError, match="not finite"):
            read_tensors(file)


def test_a_record_that_stands_twice_and_results_of_other_records_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", per_domain=3, methods=("greedy", "s2t"))
    load_run(run, name="run")
    results = json.loads((run / "results.json").read_text())
    row = results["results"][-1]
    row["accuracy"] = 1 - row["accuracy"] + (row["accuracy"] == 0.5)
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(S2TError, match="does not agree with its records: s2t has"):
        load_run(run, name="run")
    path = run / "records-greedy.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(S2TError, match=r"records-greedy.jsonl holds the item .* more than once"):
        load_run(run, name="run")


@pytest.mark.parametrize(("first", "second"), [("evaluate", "collect"), ("collect", "evaluate")])
def test_an_evaluation_and_a_collection_do_not_share_a_folder(first: str, second: str, tmp_path: Path) -> None:
    fake_session.work(first, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(S2TError, match="name another folder"):
        fake_session.work(second, tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


class Tokenizer:
    """Three characters are a token; a chat template is a function."""

    def __init__(self, template: Callable[[str], str] | None) -> None:
        self.chat_template = template
        self.longest = 0

    def apply_chat_template(self, messages: Any, **settings: Any) -> str:
        assert self.chat_template is not None
        return self.chat_template(messages[0]["content"])

    def __call__(self, text: str, **settings: Any) -> Any:
        self.longest = max(self.longest, len(text))
        return SimpleNamespace(input_ids=list(range(math.ceil(len(text.strip()) / 3))))


def model(template: Callable[[str], str] | None = None) -> Any:
    return SimpleNamespace(tokenizer=Tokenizer(template), name="m", max_positions=10)


def broken(content: str) -> str:
    raise KeyError(content)


@pytest.mark.parametrize("template", [None, "<{}>".format])
@pytest.mark.parametrize(("question", "says"), [("", "empty"), (" \n", "empty"), ("a\ud800", "half a character at 1")])
def test_questions_that_are_none(template: Any, question: str, says: str) -> None:
    with pytest.raises(S2TError, match=says):
        prompt_ids(model(template), question)


def test_a_chat_template_that_fails_is_named() -> None:
    with pytest.raises(S2TError, match="chat template of m fails"):
        prompt_ids(model(broken), "q")


def test_a_text_far_too_long_is_not_tokenised_to_its_end() -> None:
    huge = model()
    assert len(prompt_ids(huge, "a" * 50_000_000)) > huge.max_positions
    assert huge.tokenizer.longest < 1000
    blanks = model()
    assert prompt_ids(blanks, " " * 1_000 + "abc") == [0], "a text that shrinks is read whole"


def test_arguments_that_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["generate", "\udcff"], ["eval", "--out", "a\udcff"], ["\udcff"]):
        assert app.main(arguments) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("error: ") and "UTF-8" in err and err.count("\n") == 1


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which `s2t` is the program of this checkout."""
    found = {**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[2]), **environment}
    line = f's2t() {{ "{sys.executable}" -m select_to_think "$@"; }}; {script}'
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=found, timeout=120)


def test_closed_streams() -> None:
    done = shell("s2t --version >&-")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: stdout is closed")
    done = shell("s2t --version 2>&- <&-")
    assert done.returncode == 0 and done.stdout.startswith("s2t ")
    assert shell("s2t report nowhere 2>&- >&- <&-").returncode == 2


@pytest.mark.parametrize("moment", [0.15, 0.3, 0.6, 1.2])
def test_ctrl_c_at_any_moment_leaves_no_traceback(moment: float) -> None:
    found = {**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[2])}
    line = [sys.executable, "-S", "-m", "select_to_think", "generate", "q", "--max-new-tokens", "900"]
    code = f"import sys; sys.path = {sys.path!r}; sys.argv = {line[3:]!r}; from select_to_think.__main__ import main; "
    code = "print('up', flush=True); " + code + "sys.exit(main())"
    command = [sys.executable, "-S", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=found) as child:
        assert child.stdout is not None and child.stdout.readline() == "up\n"
        time.sleep(moment)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    ended = (
        130,
        -signal.SIGINT,
        -signal.SIGABRT,
    )  # the last: torch, whose native loader aborts where it is interrupted
    assert child.returncode in ended and not out and "Traceback" not in err, err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("no_color", [None, "1"])
def test_without_colours_a_terminal_shows_marks(no_color: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    steps = [
        StepRecord(token, -0.1, greedy_token=1, fired=True, candidates=(1, 2), candidate_logprobs=(-0.1, -0.2))
        for token in (1, 2)
    ]
    answer = Generation((1, 2), "stop", tuple(steps), text="one two")
    words = {1: " one", 2: " two"}
    stream = Terminal()
    session = speaking(lambda tokens: "".join(words[token] for token in tokens))
    show_result(console(stream), describe("q", answer, session))
    marks, styles = "[one] [one -> two]" in stream.getvalue(), "\x1b[" in stream.getvalue()
    assert (marks, styles) == ((True, False) if no_color else (False, True))
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("work") as report:
        assert isinstance(report, Lines) == bool(no_color)


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for write in (lambda: write_text_atomic(pipe, "x"), lambda: make_room(pipe)):
        with pytest.raises(S2TError, match="a folder or a device"):
            write()
    assert pipe.is_fifo()


def test_calibrate_looks_at_its_file_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from select_to_think.session import Session

    monkeypatch.setattr(Session, "load", lambda *_: pytest.fail("the work has begun"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for out in ("", ".", str(tmp_path), "file/x.json"):
        assert app.main(["calibrate", "--limit", "1", "--out", out]) == 2
    assert os.listdir(tmp_path) == ["file"]


def test_a_training_without_its_reporter_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("select_to_think.training.trainer.find_spec", lambda name: None)
    slm: Any = SimpleNamespace(trainable=SimpleNamespace(device=torch.device("cpu")))
    for name in ("wandb", "tensorboard"):
        with pytest.raises(S2TError, match=f"{name} is not installed: `pip install {name}`"):
            train_scorer(slm, [], ScorerConfig(report_to=name), tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(S2TError, match="seed must be between"):
        train_scorer(slm, [], ScorerConfig(), tmp_path / "out", seed=2**32)
    assert not list(tmp_path.iterdir())


def test_one_training_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        working_folder(out) as work,
        pytest.raises(S2TError, match="another process is writing"),
        working_folder(out),
    ):
        pass
    with only_writer(work), pytest.raises(S2TError, match="another process"), working_folder(out, resume=True):
        pass


def test_what_a_killed_training_left_is_gone_on_with_or_started_again(tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "out.training"
    work.mkdir()
    (work / SETTINGS).write_text('{"seed": 0}')
    (work / "checkpoint-3").mkdir()  # killed while it was written
    with working_folder(out) as found:
        begin(found, {"seed": 1})
        assert json.loads((work / SETTINGS).read_text()) == {"seed": 1}
        (work / ANSWERS).write_text("{}\n")
    assert work.exists(), "there is something to go on from"
    with pytest.raises(S2TError, match="--resume"), working_folder(out):
        pass
    with working_folder(out, resume=True) as found, pytest.raises(S2TError, match="other settings"):
        begin(found, {"seed": 2})
    with pytest.raises(ValueError, match="any"), working_folder(tmp_path / "new") as found:
        begin(found, {})
        raise ValueError("any")
    assert not (tmp_path / "new.training").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.training").mkdir()
    (tmp_path / "out.training" / "mine").write_text("precious")
    with pytest.raises(S2TError, match="in the way"), working_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out.training" / "mine").read_text() == "precious"
    for name in ("", ".", "/"):
        with pytest.raises(S2TError, match="no name"), working_folder(Path(name)):
            pass


@pytest.mark.parametrize(("rate", "fine"), [(1e-2, True), (1e9, False), (1e38, False)])
def test_a_head_that_diverged_is_not_kept(rate: float, fine: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    hidden, labels = torch.randn(64, 4), torch.arange(64) % 2 == 0
    with contextlib.nullcontext() if fine else pytest.raises(S2TError, match="diverged"):
        sizes = {"num_train_epochs": 2, "per_device_train_batch_size": 16}
        fit_head(nn.Linear(4, 1), hidden, labels, tmp_path, learning_rate=rate, seed=0, **sizes)


def test_a_line_is_checked_as_a_whole() -> None:
    @dataclasses.dataclass(frozen=True)
    class Line:
        a: int

    assert parse_record(Line, b'{"a": 1}', "x", remedy="") == Line(1)
    for content in (b"", b"[]", b'{"a": 1}{"a": 2}', b'{"a": 1},', b"null", b'{"a": true}', b'{"a": 1.0}'):
        with pytest.raises(S2TError, match=r"^x"):
            parse_record(Line, content, "x", remedy="")
