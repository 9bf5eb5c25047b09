"""Every command on a tiny pair of one's own, from calibration to the report, as a user would type them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from select_to_think.cli import app
from select_to_think.cli.data import choose_items
from select_to_think.config import DataConfig, PairConfig
from select_to_think.structures import S2TError

Run = Callable[..., dict[str, Any]]
SHORT = ("--max-new-tokens", "12")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small and a large model, questions, and what is calibrated and collected with them."""
    from tiny import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("pair")
    tokenizer = tiny_tokenizer()  # of Llama: `AutoTokenizer` replaces the tokenizer of a Qwen2 folder
    for role, seed, layers in (("slm", 0, 2), ("llm", 1, 3)):
        tiny_model("llama", vocab=len(tokenizer), seed=seed, layers=layers).save_pretrained(folder / role)
        tokenizer.save_pretrained(folder / role)
    write_items(folder / "test.jsonl", "t", range(4))
    write_items(folder / "cal.jsonl", "c", range(4, 10))
    write_items(folder / "train.jsonl", "r", range(10, 50))
    call(*pair(folder), "calibrate", "--data", folder / "cal.jsonl", "--out", folder / "calibration.json")
    calibrated = ("--calibration", folder / "calibration.json")
    call(*pair(folder), "collect", "--data", folder / "train.jsonl", *calibrated, *groups(), "--out", folder / "groups")
    return folder


def groups() -> tuple[str, ...]:
    return ("--group-size", "4", "--collect-budget", "0.3", "--entropy-budget", "0.3")


def pair(folder: Path) -> tuple[str, ...]:
    """The name of a command follows these flags in the calls below, for brevity."""
    return ("--slm", str(folder / "slm"), "--llm", str(folder / "llm"), *SHORT)


def write_items(path: Path, prefix: str, numbers: range) -> None:
    lines = [
        {"id": f"{prefix}{n}", "question": f"w{3 + n} w{4 + n} w5", "answer": f"w{n}", "domain": "ab"[n % 2]}
        for n in numbers
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def call(*arguments: object) -> int:
    """Run `s2t`; the command's name stands behind the pair's flags."""
    words = [str(word) for word in arguments]
    at = next(i for i, word in enumerate(words) if word in ("calibrate", "collect", "generate", "measure", "eval"))
    code = app.main([words[at], *words[:at], *words[at + 1 :]])
    assert code == 0
    return code


@pytest.fixture
def run(place: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command with `--json` on the tiny pair and return the object that it printed."""

    def answer(*arguments: object) -> dict[str, Any]:
        capfd.readouterr()
        call(*pair(place), *arguments, "--json")
        loaded: dict[str, Any] = json.loads(capfd.readouterr().out)
        return loaded

    return answer


def test_generate_gives_the_whole_trace(run: Run, place: Path) -> None:
    calibration = place / "calibration.json"
    flags = ("--method", "s2t", "--trigger-budget", "0.5", "--calibration", calibration)
    said = run("generate", "w5 w6", "w7", *flags)
    assert said["schema"] == 1 and said["method"] == "s2t"
    first, second = said["results"]
    assert [first["question"], second["question"]] == ["w5 w6", "w7"]
    assert len(first["steps"]) == len(first["tokens"]) and first["fired"] == sum(s["fired"] for s in first["steps"])
    assert "".join(step["text_added"] for step in first["steps"]) == first["text"]
    fired = [step for answer in said["results"] for step in answer["steps"] if step["fired"]]
    assert fired and all(step["candidates"] and step["chooser"] == "llm" for step in fired)
    assert all(step["token"] == step["candidates"][step["choice"]]["id"] for step in fired)


def test_generate_shows_marks_and_a_table(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ("--method", "s2t", "--trigger-budget", "0.5", "--calibration", place / "calibration.json")
    call(*pair(place), "generate", "w5 w6", *flags)
    out = capfd.readouterr().out
    assert "[" in out and "triggered step" in out and "candidates" in out and "\x1b" not in out


def test_measure(run: Run, place: Path) -> None:
    out = place / "measured"
    said = run("measure", "--data", place / "test.jsonl", "--trigger-budget", "0.5", "--out", out)
    assert [row["domain"] for row in said["results"]] == ["a", "b", "all"]
    assert set(said["results"][-1]["hit_at"]) == {"1", "2", "4", "8", "16", "32"}
    assert json.loads((out / "measure.json").read_text()) == said


def test_measuring_another_pair_leaves_a_run_alone(place: Path, capfd: pytest.CaptureFixture[str], run: Run) -> None:
    out, data = place / "another", ("--data", place / "test.jsonl")
    run("eval", *data, "--methods", "greedy", "--out", out)
    turned = ("--slm", place / "llm", "--llm", place / "slm", *data, "--trigger-budget", "0.5", "--out", out)
    assert app.main(["measure", *map(str, turned)]) == 2
    assert "was begun with other settings (slm was" in capfd.readouterr().err and not (out / "measure.json").exists()
    run("measure", *data, "--trigger-budget", "0.5", "--out", out)
    assert (out / "measure.json").exists()


def test_eval_then_again_then_report(run: Run, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = place / "run"
    flags = ("--data", place / "test.jsonl", "--calibration", place / "calibration.json", "--out", out)
    said = run("eval", *flags, "--methods", "greedy,maj@2,s2t")
    assert {(row["method"], row["domain"]) for row in said["results"]} == {
        (method, domain) for method in ("greedy", "maj@2", "s2t") for domain in ("a", "b", "all")
    }
    records = (out / "records-s2t.jsonl").read_text()
    again = run("eval", *flags, "--methods", "greedy,maj@2,s2t")
    assert again["results"] == said["results"] and (out / "records-s2t.jsonl").read_text() == records
    capfd.readouterr()
    assert app.main(["report", str(out)]) == 0
    shown = capfd.readouterr().out
    assert shown == f"report: {(out / 'report.html').resolve()}\n"
    assert "<html" in (out / "report.html").read_text().lower()


def test_calibration_questions_are_refused_as_test_questions(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ("--data", place / "cal.jsonl", "--calibration", place / "calibration.json", "--out", place / "no")
    code = app.main(["eval", *map(str, (*pair(place), *flags)), "--methods", "s2t"])
    err = capfd.readouterr().err
    assert code == 2 and "c4" in err.splitlines()[-1]


def test_collecting_from_test_data_is_refused(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ("--data", place / "test.jsonl", "--calibration", place / "calibration.json", "--out", place / "no")
    assert app.main(["collect", *map(str, (*pair(place), *flags))]) == 2
    assert "test" in capfd.readouterr().err and not (place / "no").exists()


def test_collecting_what_the_calibration_saw_is_refused(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ("--data", place / "cal.jsonl", "--calibration", place / "calibration.json", "--out", place / "no")
    assert app.main(["collect", *map(str, (*pair(place), *flags, *groups()))]) == 2
    assert "the calibration and the training data share 6 question(s)" in capfd.readouterr().err


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A folder with questions of two benchmarks, one of them too long for the models."""
    for split, first in (("train", 40), ("test", 50)):
        write_items(tmp_path / f"gsm8k_{split}.jsonl", split, range(first, first + 9))
    text = (tmp_path / "gsm8k_test.jsonl").read_text().replace('"w53 w54 w5"', f'"{"w7 " * 600}"')
    (tmp_path / "gsm8k_test.jsonl").write_text(text.replace('"answer": "w', '"answer_type": "number", "answer": "'))
    write_items(tmp_path / "mine.jsonl", "m", range(20, 22))
    return tmp_path


def test_benchmarks_from_a_folder(bench: Path, place: Path, run: Run) -> None:
    flags = ("--benchmarks", f"gsm8k,{bench / 'mine.jsonl'}", "--data-dir", bench, "--template", "{question} w4")
    said = run("eval", *flags, "--methods", "greedy,llm", "--seeds", "0,1", "--out", bench / "out")
    rows = {(row["method"], row["domain"]): row for row in said["results"]}
    assert rows["greedy", "gsm8k"]["n"] == 9 and rows["greedy", "gsm8k"]["prompts_too_long"] == 1
    assert rows["greedy", "a"]["n"] == 1 and rows["llm", "all"]["baseline"] == "greedy"
    assert rows["llm", "all"]["llm_tokens_share"] == 1 and rows["greedy", "all"]["llm_tokens_share"] == 0
    assert rows["greedy", "all"]["flops"] < rows["llm", "all"]["flops"]
    assert said["provenance"]["config"]["prompt"]["template"] == "{question} w4"
    assert any("1 of 11 prompts do not fit" in note for note in said["provenance"]["notes"])
    records = [json.loads(line) for line in (bench / "out" / "records-greedy.jsonl").read_text().splitlines()]
    assert records[1]["question"] == "w54 w55 w5" and records[1]["prompt_tokens"] == 4
    examples = run(
        "eval", *flags[2:4], "--benchmarks", "gsm8k", "--shots", "2", "--methods", "greedy", "--out", bench / "shots"
    )
    assert examples["results"][-1]["prompts_too_long"] == 1
    measured = run("measure", "--benchmarks", "gsm8k", "--data-dir", bench, "--limit", "5")
    assert measured["results"][-1]["n_items"] == 4 and any(
        "left out" in note for note in measured["provenance"]["notes"]
    )


def test_choices_of_a_file_are_put_to_the_model_unless_the_question_names_them(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "question": "Which colour?", "answer": "B", "answer_type": "choice", "choices": ["red", "green"]},
        {
            "id": "b",
            "question": "A. red or B. green?",
            "answer": "B",
            "answer_type": "choice",
            "choices": ["red", "green"],
        },
        {"id": "c", "question": "How many?", "answer": "2", "answer_type": "number"},
    ]
    file = tmp_path / "mine.jsonl"
    digits = {"question": "Between 12 and 30?", "answer": "A", "answer_type": "choice", "choices": ["1", "2", "3"]}
    listed = {**digits, "question": "How many?\n(A) 1\n(B) 2\n(C) 3"}
    lines += [{"id": "d", **digits}, {"id": "e", **listed}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    hidden, named, number, within, listing = choose_items(PairConfig(), DataConfig(data=file))
    assert "A. 1\nB. 2" in within.asked and listing.asked == listed["question"]
    assert hidden.asked.startswith("Which colour?") and "A. red\nB. green" in hidden.asked
    assert (named.asked, number.asked) == ("A. red or B. green?", "How many?")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "test.jsonl" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(json.dumps({"id": path.parent.name, "question": "Q", "answer": "5"}) + "\n")
    with pytest.raises(S2TError, match="would be one domain, test: rename a file"):
        choose_items(PairConfig(), DataConfig(benchmarks=",".join(map(str, paths))))
    for path in paths:
        line = {"id": path.parent.name, "question": path.parent.name, "answer": "5", "domain": path.parent.name}
        path.write_text(json.dumps(line) + "\n")
    assert len(choose_items(PairConfig(), DataConfig(benchmarks=",".join(map(str, paths))))) == 2


def test_calibrating_and_collecting_take_the_train_split(bench: Path, place: Path, run: Run) -> None:
    flags = ("--benchmarks", "gsm8k", "--data-dir", bench)
    calibration = bench / "calibration.json"
    assert run("calibrate", *flags, "--limit", "4", "--out", calibration)["n_items"] == 4
    words = (*flags, "--skip", "4", "--calibration", calibration, *groups(), "--out", bench / "groups")
    assert run("collect", *words)["trajectories"] == 5


def test_shards_on_the_command_line(place: Path, capfd: pytest.CaptureFixture[str], run: Run, tmp_path: Path) -> None:
    flags = ("--data", place / "test.jsonl", "--methods", "greedy")
    folders = [tmp_path / str(index) for index in (1, 2)]
    for index, folder in enumerate(folders, 1):
        run("eval", *flags, "--shard", f"{index}/2", "--out", folder)
    assert app.main(["merge", *map(str, folders), "--out", str(tmp_path / "both"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["results"][-1]["n"] == 4


def test_train_a_scorer_and_use_it_without_an_llm(place: Path, capfd: pytest.CaptureFixture[str], run: Run) -> None:
    scorer = place / "scorer"
    words = ["train", "scorer", "--slm", place / "slm", "--collection", place / "groups", "--out", scorer]
    assert app.main([*map(str, words), "--epochs", "1", "--lora-rank", "2", "--bins", "4", "--json"]) == 0
    heard = capfd.readouterr()
    said = json.loads(heard.out)
    assert said["scorer"] == str(scorer) and said["groups"] > 0 and 0 <= said["agree_at_1"] <= 1
    assert "was not collected with" not in heard.err
    others = [str(place / "llm") if word == place / "slm" else str(word) for word in words[:-1]]
    assert app.main([*others, str(place / "of-the-llm"), "--epochs", "1", "--lora-rank", "2", "--bins", "4"]) == 0
    assert "groups was not collected with" in capfd.readouterr().err
    flags = ("--scorer", scorer, "--calibration", place / "calibration.json", "--trigger-budget", "0.5")
    told = run("generate", "w5 w6", *flags, "--llm", place / "no-such-model", "--candidates", "4")
    assert {step["chooser"] for step in told["results"][0]["steps"]} == {"slm", "scorer"}
    write_items(place / "peek.jsonl", "p", range(48, 52))
    shown = ("--scorer", scorer, "--calibration", place / "calibration.json", "--methods", "s2t-local")
    assert app.main(["eval", *map(str, (*pair(place), "--data", place / "peek.jsonl", *shown))]) == 2
    assert "scorer was trained on 2 of the test questions (p48, p49)" in capfd.readouterr().err
    assert app.main([*map(str, words)]) == 2, "the folder is there already"
    assert "already exists" in capfd.readouterr().err


def test_a_coupled_scorer_needs_thresholds_of_its_own(
    place: Path, capfd: pytest.CaptureFixture[str], run: Run, tmp_path: Path
) -> None:
    scorer = tmp_path / "coupled"
    words = ["train", "scorer", "--slm", place / "slm", "--collection", place / "groups", "--out", scorer]
    assert app.main([*map(str, words), "--mode", "coupled", "--epochs", "1", "--lora-rank", "2", "--bins", "4"]) == 0
    assert f"s2t calibrate --slm ... --scorer {scorer}" in capfd.readouterr().out
    question = ("generate", "w5 w6", "--scorer", scorer, "--trigger-budget", "0.5", "--candidates", "4")
    base = ("--calibration", place / "calibration.json")
    assert app.main([*map(str, (*question[:2], *pair(place), *question[2:], *base))]) == 2
    assert f"`s2t calibrate --scorer {scorer}`" in capfd.readouterr().err
    own = ("--slm", place / "slm", "--scorer", scorer, *SHORT)
    write_items(tmp_path / "seen.jsonl", "s", range(48, 52))
    assert app.main(["calibrate", *map(str, ("--data", tmp_path / "seen.jsonl", *own))]) == 2
    assert "trained on 2 of the calibration questions (s48, s49)" in capfd.readouterr().err
    calibration = run("calibrate", "--data", place / "cal.jsonl", "--scorer", scorer)["calibration"]
    assert calibration == str(scorer / "calibration.json")
    assert "scorer" in {step["chooser"] for step in run(*question)["results"][0]["steps"]}


def test_train_a_trigger(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["train", "trigger", "--slm", place / "slm", "--collection", place / "groups", "--out", place / "trigger"]
    assert app.main([*map(str, words), "--epochs", "1", "--trigger-budget", "0.3", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert 0 <= said["recall"] <= 1 and (place / "trigger" / "trigger_head.safetensors").is_file()
    keys = json.loads((place / "trigger" / "trained_on.json").read_text())["question_keys"]
    assert len(keys) == 40 and {len(key) for key in keys} == {16}


def test_bench_train(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "train", "--slm", place / "slm", "--collection", place / "groups", "--limit", "4"]
    assert app.main([*map(str, words), "--repeats", "1", "--lora-rank", "2", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == ["packed", "plain"]
    assert rows[0]["token_forwards"] < rows[1]["token_forwards"] and rows[0]["groups"] == rows[1]["groups"]


@pytest.mark.parametrize(
    "flags", [("--limit", "4"), ("--dtype", "float32"), ("--collection", "groups"), ("--slm", "slm")]
)
def test_a_shape_takes_nothing_of_a_pair(flags: tuple[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    assert app.main(["bench", "train", "--shape", "qwen2.5-0.5b", *flags]) == 2
    assert "--shape has random weights" in capfd.readouterr().err


def test_pair_info_tells_the_shares_of_the_mistakes(capfd: pytest.CaptureFixture[str]) -> None:
    assert app.main(["pair", "info", "--json"]) == 0
    assert "66 %" in json.loads(capfd.readouterr().out)["notes"][0]
    assert app.main(["pair", "info"]) == 0
    assert "66 %" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("command", "needle"),
    [
        (("generate", "w5", "--method", "s2t-lokal"), "did you mean 's2t-local'"),
        (("generate", "w5", "--method", "s2t", "--trigger", "entrpy"), "did you mean 'entropy'"),
        (("generate", "w5", "--method", "s2t-local", "--trigger", "kl"), "without an LLM"),
        (("generate", "w5", "--method", "s2t", "--candidates", "9999"), "--candidates"),
        (("generate", "w5", "--method", "greedy", "--max-new-tokens", "100000"), "--max-new-tokens"),
        (("generate", "w5", "--method", "greedy", "--device", "cudaa"), "cudaa"),
        (("eval", "--methods", "greedy", "--data", "{place}/test.jsonl", "--out", "/dev/null/x"), "/dev/null/x"),
    ],
)
def test_what_a_pair_cannot_do(
    place: Path, capfd: pytest.CaptureFixture[str], command: tuple[str, ...], needle: str
) -> None:
    words = [word.format(place=place) for word in command]
    flags = [*pair(place), "--calibration", str(place / "calibration.json")]
    code = app.main([words[0], *flags, *words[1:]])
    out, err = capfd.readouterr()
    assert code == 2 and not out and needle in err.splitlines()[-1]
    assert "Traceback" not in err
