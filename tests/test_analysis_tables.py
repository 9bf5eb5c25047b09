"""Tables and figures say exactly what the result files say."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from analysis_run import DOMAINS, METHODS, count_again, make_run
from fake_session import FakeSession, fake_items
from select_to_think.analysis.charts import COST_AXES, CostAxis, Curve, curve_chart, pareto_front
from select_to_think.analysis.documents import DOCUMENTS
from select_to_think.analysis.figures import write_figures
from select_to_think.analysis.formats import plain_rows, to_csv, to_markdown
from select_to_think.analysis.report import render
from select_to_think.analysis.runs import Run, load_run, load_runs
from select_to_think.analysis.svg import Labels, Scale, covering
from select_to_think.analysis.tables import (
    METHOD,
    N,
    Table,
    domain_table,
    hit_table,
    paired_table,
    results_table,
    subject_table,
    with_prefix,
)
from select_to_think.cli.tables import to_rich
from select_to_think.config import EvalSettings
from select_to_think.evaluation.runner import evaluate
from select_to_think.evaluation.statistics import paired_difference
from select_to_think.structures import S2TError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "one", per_domain=8)


def results_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]


def records_of(folder: Path, method: str) -> dict[str, dict[str, Any]]:
    lines = (folder / f"records-{method}.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["id"]: record for record in map(json.loads, lines)}


def test_csv_and_json_hold_the_exact_values_of_every_row(folder: Path) -> None:
    table = results_table(load_runs([folder]), domain=None)
    expected = {(row["method"], row["domain"]): row for row in results_of(folder)}
    as_json = {(row["method"], row["domain"]): row for row in plain_rows(table)}
    as_csv = {(row["method"], row["domain"]): row for row in csv.DictReader(io.StringIO(to_csv(table)))}
    assert as_json.keys() == as_csv.keys() == expected.keys()
    for key, row in expected.items():
        for name in ("n", "accuracy", "stderr", "tokens_per_second", "trigger_rate", "flip_rate", "hit_at_8"):
            assert as_json[key][name] == row[name]
            assert as_csv[key][name] == ("" if row[name] is None else repr(row[name]))
        assert as_json[key]["llm_processed_per_answer"] == row["llm_tokens_processed"] / row["n"]
        assert as_json[key]["seconds_per_answer"] == row["seconds"] / row["n"]


def test_costs_divide_by_items_and_cut_off_answers_are_counted(folder: Path) -> None:
    rows = {row["method"]: row for row in results_table(load_runs([folder])).rows}
    assert list(rows) == list(METHODS)
    for method, row in rows.items():
        records = records_of(folder, method).values()
        assert row["cut_off"] == sum(record["finish_reason"] == "length" for record in records)
        assert row["llm_share"] == row["llm_tokens_share"] == row["llm_tokens_generated"] / row["tokens"]


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> Run:
    """The run after `change` was made to every result row."""
    path = folder / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    for row in results["results"]:
        change(row)
    path.write_text(json.dumps(results), encoding="utf-8")
    return load_run(folder, name="run")


def test_counts_that_the_run_wrote_down_are_shown_as_they_are(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", per_domain=2, methods=("greedy", "llm"))

    def change(row: dict[str, Any]) -> None:
        paired = {"difference": 0.5, "low": 0.4, "high": 0.6, "wins": 3, "losses": 1, "n": 6, "mcnemar_p": None}
        row |= {"truncated": 77, "flops": 1.5e12 * row["n"], "money": 0.25 * row["n"], "slm_tokens_processed": row["n"]}
        row |= {
            "seeds": 3,
            "prompts_too_long": 1,
            "baseline": "llm",
            "paired": None if row["method"] == "llm" else paired,
        }
        row |= {"consultations": 2 * row["n"], "disagreements": 8, "mentor_choices": 2}

    run = rewritten(folder, change)
    table = results_table([run])
    row = table.rows[0]
    assert [row[key] for key in ("cut_off", "flops_per_answer", "money_per_1000")] == [77, 1.5e12, 250.0]
    assert (row["consultations_per_answer"], row["mentor_choice_rate"]) == (2.0, 0.25)
    shown = to_markdown(table)
    assert "| 1.5 T |" in shown and "| Seeds |" in shown and "| Too long |" in shown
    assert run.baseline == "llm"
    assert [(line["method"], line["difference"]) for line in paired_table(run).rows] == [("greedy", 0.5)]
    assert "Points against llm" in to_markdown(paired_table(run))


def test_subjects_count_every_seed_as_the_result_rows_do(tmp_path: Path) -> None:
    items = [replace(item, meta={"subject": item.domain}) for item in fake_items()]
    session: Any = FakeSession()
    evaluate(session, items, ["greedy", "sample", "s2t"], EvalSettings(seeds=(4, 0)), out=tmp_path)
    run = load_run(tmp_path, name="run")
    expected = {(row.method, row.domain): (row.accuracy, row.stderr) for row in run.rows if row.domain != "all"}
    found = {
        (method, row["subject"]): (row[f"accuracy:{method}"], row[f"stderr:{method}"])
        for row in subject_table(run).rows
        for method in run.methods
    }
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values), key
    assert {row["n"] for row in subject_table(run).rows} == {5}
    first, second = (run.answers("sample", seed) for seed in (4, 0))
    assert list(run.records["sample"]) == [4, 0] and first != second
    assert any(first[item].right != second[item].right for item in first)


def test_subjects_are_tabled_apart(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", per_domain=6, methods=("greedy", "llm"), domains=("facts",))
    assert subject_table(load_run(folder, name="run")).rows == ()
    for path in folder.glob("records-*.jsonl"):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for index, record in enumerate(records):
            record |= {"subject": ("law", "physics")[index % 2], "right": record["method"] == "llm" or index == 0}
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    count_again(folder)
    run = load_run(folder, name="run")
    rows = {row["subject"]: row for row in subject_table(run).rows}
    assert {name: (row["n"], row["accuracy:llm"]) for name, row in rows.items()} == {
        "law": (3, 1.0),
        "physics": (3, 1.0),
    }
    assert rows["law"]["accuracy:greedy"] == pytest.approx(1 / 3) and rows["physics"]["accuracy:greedy"] == 0.0
    assert "physics" in DOCUMENTS["md"]([run]) and "physics" in render([run])


def test_every_text_format_holds_the_same_exact_values(folder: Path) -> None:
    runs = load_runs([folder])
    document = json.loads(DOCUMENTS["json"](runs))
    lines = list(csv.DictReader(io.StringIO(DOCUMENTS["csv"](runs))))
    assert [row["method"] for row in document["results"]] == [line["method"] for line in lines]
    for row, line in zip(document["results"], lines, strict=True):
        assert {key: "" if value is None else str(value) for key, value in row.items()} == line
    compared = {(row["method"], row["domain"]): row for row in paired_table(runs[0], ("all", *DOMAINS)).rows}
    for row in document["results"]:
        found = compared.get((row["method"], row["domain"]))
        assert (row["difference"], row["high"]) == ((found["difference"], found["high"]) if found else (None, None))
    assert document["provenance"]["one"]["git_hash"] == "0123abc"
    shown = DOCUMENTS["md"](runs)
    assert all(f"\n## {title}" in shown for title in ("Results", "Against greedy", "Accuracy by domain", "Provenance"))
    assert "0123abc" in shown and "made-up remark" in shown


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (999, "999"), (1234, "1.23 k"), (999_600, "1 M"), (5.5e12, "5.5 T"), (2e20, "200 E")],
)
def test_large_numbers_get_a_prefix(value: float, words: str) -> None:
    assert with_prefix(value) == words


def test_paired_differences_are_those_of_the_statistics(folder: Path) -> None:
    run = load_run(folder, name="one")
    greedy = records_of(folder, "greedy")
    rows = paired_table(run, ["all", "facts"]).rows
    assert [(row["method"], row["domain"]) for row in rows] == [(m, d) for d in ("all", "facts") for m in METHODS[1:]]
    for row in rows:
        other = records_of(folder, row["method"])
        items = [item for item in greedy if row["domain"] in ("all", greedy[item]["domain"])]
        pairs = [(greedy[item]["right"], other[item]["right"]) for item in items]
        assert (row["wins"], row["losses"]) == (pairs.count((False, True)), pairs.count((True, False)))
        found = paired_difference([after for _, after in pairs], [before for before, _ in pairs])
        assert {name: row[name] for name in asdict(found)} == asdict(found)
        if row["domain"] == "all":
            counts = run.changes(row["method"])
            assert counts == {"fixed": found.wins, "broken": found.losses}


def test_an_interval_is_shown_from_end_to_end(folder: Path) -> None:
    table = paired_table(load_run(folder, name="one"))
    row = table.rows[0]
    words = f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}".replace("-", "−")
    assert words in to_markdown(table)
    assert plain_rows(table)[0]["high"] == row["high"]


def test_domain_and_hit_tables_repeat_the_files(folder: Path) -> None:
    run = load_run(folder, name="one")
    lines = {row["method"]: row for row in domain_table(run).rows}
    for row in results_of(folder):
        assert lines[row["method"]][f"accuracy:{row['domain']}"] == row["accuracy"]
    measured = json.loads((folder / "measure.json").read_text(encoding="utf-8"))["results"]
    for shown, row in zip(hit_table([run]).rows, measured, strict=True):
        assert {k: shown[f"hit_at:{k}"] for k in row["hit_at"]} == row["hit_at"]


def test_markdown_rounds_and_keeps_text_in_its_cell() -> None:
    table = Table("t", (METHOD, N), ({"method": "a|b\n<b>", "n": 1234}, {"method": "c", "n": None}))
    assert to_markdown(table) == "| Method | n |\n| :-- | --: |\n| a\\|b &lt;b> | 1,234 |\n| c | – |\n"


def test_markdown_shows_accuracy_with_its_error(folder: Path) -> None:
    row = next(row for row in results_of(folder) if row["method"] == "s2t" and row["domain"] == "all")
    assert f"{100 * row['accuracy']:.1f} ± {100 * row['stderr']:.1f} %" in to_markdown(
        results_table(load_runs([folder]))
    )


def test_a_terminal_table_shows_every_method(folder: Path) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(to_rich(results_table(load_runs([folder]))))
    shown = console.export_text()
    assert all(method in shown for method in METHODS)


def test_several_runs_are_told_apart(folder: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "one", per_domain=2, methods=("greedy",), measured=False)
    runs = load_runs([folder, other])
    assert [run.name for run in runs] == ["one", "one (2)"]
    table = results_table(runs)
    assert "run" in [column.key for column in table.columns]
    assert [row["run"] for row in table.rows] == ["one"] * len(METHODS) + ["one (2)"]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("results.json", "{", "results.json"),
        ("results.json", '{"schema": 2, "results": [], "provenance": {}}', "schema is 2"),
        ("records-greedy.jsonl", '{"id": 1\n', "records-greedy.jsonl, line 1"),
        ("measure.json", '{"schema": 1}', "measure.json"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, file: str, content: str, words: str) -> None:
    folder = make_run(tmp_path / "run", per_domain=2, methods=("greedy",))
    (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(S2TError, match=words):
        load_runs([folder])


def test_no_run_and_no_results_are_errors(tmp_path: Path) -> None:
    with pytest.raises(S2TError, match="no run given"):
        load_runs([])
    with pytest.raises(S2TError, match=r"results\.json"):
        load_runs([tmp_path])


points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(points, st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_pareto_front_is_what_nothing_beats(pairs: list[tuple[int, int]], lower: bool) -> None:
    rows = [{"cost": cost, "accuracy": accuracy, "id": index} for index, (cost, accuracy) in enumerate(pairs)]
    front = [row["id"] for row in pareto_front(rows, CostAxis("cost", "Cost", lower_is_better=lower))]
    sign = 1 if lower else -1

    def beaten(cost: int, accuracy: int) -> bool:
        return any(sign * c <= sign * cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in pairs)

    assert sorted(front) == [index for index, pair in enumerate(pairs) if not beaten(*pair)]
    costs = [sign * pairs[index][0] for index in front]
    assert costs == sorted(costs)


def test_rows_without_a_cost_are_not_on_the_front() -> None:
    assert pareto_front([{"cost": None, "accuracy": 1.0}], CostAxis("cost", "Cost")) == []


@given(st.lists(st.just(0.0) | st.floats(1e-6, 1e6), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_scales_keep_every_value_inside_and_have_ticks(values: list[float]) -> None:
    scale = covering(values, 40, 700)
    assert all(39 <= scale(value) <= 701 for value in values)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 40
    assert all(39.9 <= scale(tick) <= 700.1 for tick in ticks)


def test_ticks_are_round() -> None:
    assert Scale(0.0, 1.0, 0, 100).ticks() == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Scale(0.9, 60.0, 0, 100, logarithmic=True).ticks() == pytest.approx([1, 2, 5, 10, 20, 50])


def test_labels_of_near_points_do_not_overlap() -> None:
    labels = Labels(400)
    for y in (100, 104, 108):
        labels.place(200, y, "method")
    boxes = labels.boxes
    for index, (a, b, c, d) in enumerate(boxes):
        for e, f, g, h in boxes[:index]:
            assert c < e or g < a or d < f or h < b


def svg_texts(path: Path) -> list[str]:
    """The texts of a figure that any program can draw: well-formed, with its size, and no name left to be resolved."""
    content = path.read_text(encoding="utf-8")
    assert "var(" not in content and "inherit" not in content
    root = ElementTree.fromstring(content)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and int(root.attrib["width"]) > 0
    return [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_figures_stand_by_themselves(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a & b", per_domain=2, methods=("greedy", "s2t-local"))
    written = write_figures(load_runs([folder]), tmp_path / "figures")
    stems = ("accuracy", "accuracy-against-seconds-per-answer", "accuracy-against-tokens-per-second", "hit-at-k")
    assert [path.name for path in written] == [f"{stem}.svg" for stem in stems]
    texts = {path.stem: svg_texts(path) for path in written}
    assert all({"greedy", "s2t-local"} <= set(texts[stem]) for stem in stems[:3])
    assert {"LLM used", "no LLM at inference"} <= set(texts["accuracy"])
    assert [axis.words.split()[0] for axis in COST_AXES[:2]] == ["seconds", "LLM"]
    assert {*DOMAINS, "all", "Hit@k, a & b, 95 % intervals"} <= set(texts["hit-at-k"])


def test_two_measured_runs_are_two_figures(folder: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "second", per_domain=2)
    names = [
        path.stem for path in write_figures(load_runs([folder, other]), tmp_path / "figures") if "hit" in path.stem
    ]
    assert names == [f"hit-at-k-{run.name}" for run in load_runs([folder, other])] and len(names) == 2


def test_marks_of_a_curve_stand_at_their_values() -> None:
    curves = [Curve("one", [(0.0, 0.25, 0.1, "low"), (1.0, 0.75, 0.0, "high")])]
    x, y = Scale(0.0, 1.0, 48, 348), Scale(0.0, 1.0, 300, 20)
    drawn = curve_chart(curves, x, y, [(0.0, "0"), (1.0, "1")], ("x", "all"), width=360)
    assert "M48.0 230.0L348.0 90.0" in drawn
    assert drawn.count('class="error"') == 3 and 'aria-label="high"' in drawn


def test_domains_of_a_run_leave_out_the_whole(folder: Path) -> None:
    assert load_run(folder, name="one").domains == DOMAINS
