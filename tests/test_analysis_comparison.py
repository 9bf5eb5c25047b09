"""Two methods side by side: counts, items, and refusals, against the records themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis_run import DOMAINS, count_again, make_run
from select_to_think.analysis.comparison import Comparison, compare_runs
from select_to_think.cli import app
from select_to_think.evaluation.statistics import paired_difference
from select_to_think.structures import S2TError

METHODS = ("greedy", "s2t-local", "llm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "first", per_domain=12, methods=METHODS)


def change(path: Path, how: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite every record of a file."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for record in records:
        how(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    count_again(path.parent if (path.parent / "results.json").exists() else path.parent.parent)


def records_of(folder: Path, method: str) -> dict[str, dict[str, Any]]:
    lines = (folder / f"records-{method}.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["id"]: record for record in map(json.loads, lines)}


def only(found: list[Comparison]) -> Comparison:
    assert len(found) == 1
    return found[0]


def test_rows_and_items_say_what_the_records_say(folder: Path) -> None:
    found = only(compare_runs([folder], ["greedy", "s2t-local"]))
    before, after = records_of(folder, "greedy"), records_of(folder, "s2t-local")
    assert [row["domain"] for row in found.rows] == [*DOMAINS, "all"]
    for row in found.rows:
        ids = [name for name in before if row["domain"] in ("all", before[name]["domain"])]
        pairs = [(before[name]["right"], after[name]["right"]) for name in ids]
        assert (row["wins"], row["losses"]) == (pairs.count((False, True)), pairs.count((True, False)))
        assert row["ties"] == row["n"] - row["wins"] - row["losses"] == sum(a == b for a, b in pairs)
        stats = paired_difference([b for _, b in pairs], [a for a, _ in pairs])
        assert (row["low"], row["high"], row["mcnemar_p"]) == (stats.low, stats.high, stats.mcnemar_p)
        assert row["truncated_a"] == sum(before[name]["finish_reason"] == "length" for name in ids)
    for item in found.items:
        a, b = before[item["id"]], after[item["id"]]
        assert item["outcome"] == ("tie" if a["right"] == b["right"] else "win" if b["right"] else "loss")
        assert (item["answer"], item["answer_a"], item["answer_b"]) == (a["answer"], a["extracted"], b["extracted"])


def test_the_other_way_round_wins_are_losses(folder: Path) -> None:
    there, back = (only(compare_runs([folder, folder], pair)) for pair in (["greedy", "llm"], ["llm", "greedy"]))
    for one, other in zip(there.rows, back.rows, strict=True):
        assert (one["wins"], one["losses"]) == (other["losses"], other["wins"])
        assert one["difference"] == -other["difference"] and one["mcnemar_p"] == other["mcnemar_p"]


def test_two_runs_are_compared_method_by_method(folder: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "second", per_domain=12, methods=("greedy", "s2t-local", "takeover"))
    change(other / "records-s2t-local.jsonl", lambda record: record.update(right=False))
    found = compare_runs([folder, other], [])
    assert [(entry.a.label, entry.b.label) for entry in found] == [
        ("greedy (first)", "greedy (second)"),
        ("s2t-local (first)", "s2t-local (second)"),
    ]
    assert found[0].rows[-1]["ties"] == 36 and found[0].rows[-1]["mcnemar_p"] == 1.0
    assert found[1].rows[-1]["losses"] == sum(record["right"] for record in records_of(folder, "s2t-local").values())
    assert only(compare_runs([folder, other], ["llm", "takeover"])).rows[-1]["n"] == 36


def test_seeds_enter_as_the_mean_of_each_item(folder: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", per_domain=4, methods=("greedy", "sample"), domains=("facts",))
    (run / "seed-1").mkdir()
    (run / "seed-1" / "records-sample.jsonl").write_text((run / "records-sample.jsonl").read_text("utf-8"), "utf-8")
    change(run / "records-greedy.jsonl", lambda record: record.update(right=False))
    change(run / "records-sample.jsonl", lambda record: record.update(right=True))
    change(run / "seed-1" / "records-sample.jsonl", lambda record: record.update(right=False))
    row = only(compare_runs([run], ["greedy", "sample"])).rows[-1]
    assert (row["accuracy_b"], row["wins"], row["mcnemar_p"]) == (0.5, 4, None)


def test_settings_that_differ_are_named(folder: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "second", per_domain=12, methods=METHODS)
    for place, tokens, budget in ((folder, 128, 0.1), (other, 64, 0.1)):
        settings = {"decode": {"max_new_tokens": tokens}, "select": {"trigger_budget": budget}}
        methods = {"s2t-local": settings, "greedy": {"decode": settings["decode"]}}
        (place / "run.json").write_text(
            json.dumps({"schema": 1, "items": {"count": 3, "sha256": ""}, "methods": methods}), encoding="utf-8"
        )
    changed = {"name": "decode.max_new_tokens", "a": 128, "b": 64}
    assert only(compare_runs([folder, other], ["s2t-local"])).settings == (changed,)
    assert only(compare_runs([folder, other], ["greedy", "s2t-local"])).settings == (changed,)
    assert only(compare_runs([folder], ["greedy", "s2t-local"])).settings == ()


def test_what_cannot_be_compared_is_one_line(folder: Path, tmp_path: Path) -> None:
    fewer = make_run(tmp_path / "fewer", per_domain=5, methods=METHODS)
    with pytest.raises(S2TError, match=r"^21 item\(s\) stand only in llm \(first\) \(arithmetic-0005, .*, \.\.\.\)"):
        compare_runs([folder, fewer], ["llm"])
    others = make_run(tmp_path / "others", per_domain=12, methods=METHODS)
    change(others / "records-llm.jsonl", lambda record: record.update(question=record["question"] + " Really?"))
    with pytest.raises(S2TError, match="arithmetic-0000 is another question"):
        compare_runs([folder, others], ["llm"])
    with pytest.raises(S2TError, match="compared with itself"):
        compare_runs([folder, folder], [])
    with pytest.raises(S2TError, match="has no method 's2t-locl'; did you mean 's2t-local'"):
        compare_runs([folder], ["greedy", "s2t-locl"])
    with pytest.raises(S2TError, match="no method in common"):
        compare_runs([folder, make_run(tmp_path / "strange", per_domain=12, methods=("takeover",))], [])
    with pytest.raises(S2TError, match="at most two methods"):
        compare_runs([folder], ["greedy", "llm", "s2t-local"])


def test_the_command_prints_the_table_and_the_items(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert app.main(("compare", str(folder), "--methods", "greedy,llm", "--items", "2")) == 0
    shown, err = capfd.readouterr()
    found = only(compare_runs([folder], ["greedy", "llm"]))
    wins = [item["id"] for item in found.items if item["outcome"] == "win"]
    assert len(wins) > 2 and err == ""
    assert f"Wins: B right, A wrong (2 of {len(wins)})" in shown
    assert all((name in shown) == (number < 2) for number, name in enumerate(wins))
    assert app.main(("compare", str(folder), "--method", "greedy,llm", "--json")) == 0
    payload = json.loads(capfd.readouterr().out)
    assert payload["comparisons"] == [json.loads(json.dumps(found.to_json()))]
    assert app.main(("compare", str(folder), "--methods", "greedy,grady")) == 2
    assert capfd.readouterr().err.count("\n") == 1
