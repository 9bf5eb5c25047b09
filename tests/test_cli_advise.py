"""`s2t advise` on the bundled pair: one small run, looked at from all sides."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from select_to_think.advice import adviser
from select_to_think.advice.document import load_advice
from select_to_think.advice.recommend import recommend
from select_to_think.analysis.runs import load_run
from select_to_think.cli import app
from select_to_think.collect.records import question_keys
from select_to_think.evaluation.items import load_pair_split, question_key
from select_to_think.evaluation.results import read_records
from select_to_think.session import Session
from select_to_think.structures import S2TError

PROBES = ("distill", "s2t-local, activated")
SMALL = ("--limit", "10", "--budgets", "0.03", "--max-batch", "64", "--max-new-tokens", "64")
QUICK = ("--modes", "activated", "--epochs", "1", "--lora-rank", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("advise") / "run"


@pytest.fixture(scope="module")
def said(folder: Path) -> list[str]:
    """What the first run printed on stderr, a line of progress at each step."""
    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()), redirect_stderr(errors):
        patch.setattr("select_to_think.cli.progress.SECONDS_BETWEEN_LINES", 0.0)
        assert app.main(["advise", *SMALL, *QUICK, "--price-llm-written", "2", "--out", str(folder)]) == 0
    return errors.getvalue().splitlines()


def printed(capfd: pytest.CaptureFixture[str]) -> Any:
    """The one object on stdout."""
    return json.loads(capfd.readouterr().out)


def undated(value: Any) -> Any:
    """The advice without what differs from run to run."""
    return {**value, "provenance": None, "report": None}


def test_what_it_finds_is_typed_and_reported(folder: Path, said: list[str]) -> None:
    shares = [float(line.split()[1].split("/")[0]) for line in said if line.startswith("advising: ")]
    assert shares == sorted(shares) and shares[-1] > 0, "the time that is left is that of the whole"
    advice = load_advice(folder)
    assert advice.graded_by == "answers" and advice.n_items == 30 and advice.domains == ["arithmetic", "facts", "logic"]
    names = ["greedy", "llm", "takeover @ 3 %", "s2t @ 3 %", "s2t, entropy @ 3 %", "mentor-free"]
    assert [way.name for way in advice.ways] == [*names, "distill", "s2t-local, activated"]
    assert {way.name for way in advice.ways if way.kind == "probe"} == {"distill", "s2t-local, activated"}
    assert all(way.row.n == 30 and way.row.money is not None for way in advice.ways)
    llm = advice.way("llm")
    assert llm is not None and llm.row.money == pytest.approx(2e-6 * llm.row.llm_tokens_generated) and llm.asks_llm
    takeover = advice.way("takeover @ 3 %")
    assert takeover is not None and advice.headroom == takeover.gain and advice.headroom.low > 0.1
    assert [row.domain for row in advice.divergences] == ["arithmetic", "facts", "logic", "all"]
    assert {row.trigger for row in advice.recall} == {"kl", "entropy", "margin", "learned"}
    assert advice.provenance["config"]["advise"]["budgets"] == "0.03" and advice.check is None
    run = load_run(folder, name="run")
    assert run.advice == advice and run.measure is not None
    assert run.methods == ("greedy", "distill", "s2t-local", "mentor-free", "s2t", "takeover", "llm")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'href="#advice"' in page and "How sure is that?" in page and "s2t-local,\u00a0activated" in page


def test_no_question_is_answered_with_what_was_made_of_it(folder: Path, said: list[str]) -> None:
    keys = {item.id: question_key(item) for item in load_pair_split("validation", limit_per_domain=10)}
    for number, other in ((1, 2), (2, 1)):
        trained = set(question_keys(folder / f"trained-on-half-{number}" / "collection"))
        records = read_records(folder / f"half-{other}" / "distill" / "records-distill.jsonl")
        tested = {keys[record.id] for record in records}
        assert len(trained) == len(tested) == 15 and not trained & tested


def test_a_second_run_decodes_nothing_and_says_the_same(
    folder: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = load_advice(folder).to_json()
    (folder / "advice.json").unlink()

    def no_decoding(*_: Any, **__: Any) -> Any:
        raise AssertionError("decoded again")

    monkeypatch.setattr(Session, "run", no_decoding)
    assert app.main(["advise", *SMALL, *QUICK, "--price-llm-written", "2", "--out", str(folder), "--json"]) == 0
    assert undated(printed(capfd)) == undated(before)


def test_other_settings_are_refused(folder: Path, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["advise", *SMALL, *QUICK, "--epochs", "2", "--out", str(folder)]) == 2
    assert "begun with other settings" in capsys.readouterr().err


def test_training_goes_on_and_checks_the_prediction(
    folder: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(adviser, "recommend", lambda *found: replace(recommend(*found), train="distill"))
    words = ("--train", "--train-items", "20", "--out", str(folder), "--json")
    assert app.main(["advise", *SMALL, *QUICK, "--price-llm-written", "2", *words]) == 0
    found = printed(capfd)
    check, probe = found["check"], next(way for way in found["ways"] if way["name"] == "distill")
    assert check["way"]["name"] == "distill, trained" and check["way"]["trained_on"] == 60
    assert check["predicted_low"] == probe["row"]["paired"]["low"] <= check["predicted_high"]
    measured = check["way"]["row"]["paired"]["difference"]
    assert check["held"] == (check["predicted_low"] <= measured <= check["predicted_high"])
    assert (Path(check["folder"]) / "adapter_model.safetensors").exists()
    assert check["words"] in (folder / "report.html").read_text(encoding="utf-8").replace("&#x27;", "'")


def test_what_cannot_be_trained_is_said(
    folder: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> None:
        raise S2TError("too few of everything")

    words = ("advise", *SMALL, *QUICK, "--price-llm-written", "2", "--out", str(folder), "--json")
    for name, instead, expected in (
        ("adviser.Learner.collect", fails, ["nothing was trained: too few of everything."]),
        ("adviser.Learner.learn", fails, [f"{way} was not tried: too few of everything." for way in PROBES]),
        ("adviser.untrainable", lambda *_: "it is a file", [f"{way} was not tried: it is a file." for way in PROBES]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"select_to_think.advice.{name}", instead)
            assert app.main([*words]) == 0
        found = printed(capfd)
        assert [
            line for line in found["recommendation"]["uncertainty"] if "trained:" in line or "tried:" in line
        ] == expected
        assert {way["kind"] for way in found["ways"]} == {"measured"} and found["recommendation"]["train"] is None


def questions(path: Path, *, answered: int, count: int = 24) -> Path:
    """A file of validation questions, the first of them with answers."""
    items = load_pair_split("validation", limit_per_domain=count // 3)
    lines = [{"id": item.id, "question": item.question} for item in items]
    for line, item in zip(lines[:answered], items, strict=False):
        line["answer"] = item.answer
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_without_answers_the_llm_is_right(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = questions(tmp_path / "mine.jsonl", answered=0)
    words = (
        "--data",
        str(data),
        "--no-probe",
        "--budgets",
        "0.03",
        "--max-new-tokens",
        "64",
        "--out",
        str(tmp_path / "o"),
    )
    assert app.main(["advise", *words, "--json"]) == 0
    found = printed(capfd)
    assert found["graded_by"] == "llm" and found["n_items"] == 24
    ways = {way["name"]: way["row"] for way in found["ways"]}
    assert ways["llm"]["accuracy"] == 1 > ways["greedy"]["accuracy"] and "distill" not in ways
    assert any("its own mistakes count as right" in line for line in found["recommendation"]["uncertainty"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--split", "test"), "refusing to take advice from test data"),
        (("--limit", "2"), "at least 20 questions"),
        (("--budgets", "2"), "fractions above 0"),
        (("--modes", "couple"), "did you mean 'coupled'"),
        (("--pair", "demo-x"), "an LLM with the SLM's vocabulary"),
        (("--train", "--no-probe"), "--no-probe"),
    ],
)
def test_refusals_are_one_line(words: tuple[str, ...], message: str, tmp_path: Path, capsys: Any) -> None:
    assert app.main(["advise", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not (tmp_path / "out").exists()


def test_files_that_cannot_be_used_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = questions(tmp_path / "mine.jsonl", answered=5)
    assert app.main(["advise", "--data", str(some), "--out", str(tmp_path / "out")]) == 2
    assert "19 of 24 questions have no answer" in capsys.readouterr().err
    assert app.main(["advise", "--data", str(some), "--train", "--out", str(tmp_path / "out")]) == 2
    assert "--train-data FILE.jsonl" in capsys.readouterr().err
    code = [json.loads(line) | {"answer": "x", "answer_type": "code"} for line in some.open(encoding="utf-8")]
    (tmp_path / "code.jsonl").write_text("".join(json.dumps(line) + "\n" for line in code), encoding="utf-8")
    assert app.main(["advise", "--data", str(tmp_path / "code.jsonl"), "--out", str(tmp_path / "out")]) == 2
    assert "runs no programs" in capsys.readouterr().err
    answered = questions(tmp_path / "all.jsonl", answered=24)
    words = ("--data", str(answered), "--train", "--train-data", str(answered), "--out", str(tmp_path / "out"))
    assert app.main(["advise", *words]) == 2
    assert "share 24 question(s)" in capsys.readouterr().err and not (tmp_path / "out").exists()
