"""Advice in the report, in its texts and read back, from a made-up run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from analysis_run import DOMAINS, HOSTILE, make_run
from select_to_think.advice.document import ADVICE, Advice, DivergenceRow, RecallRow, Recommendation, Way, load_advice
from select_to_think.analysis.advice import divergence_table, headline, recall_chart, recall_table, section, ways_table
from select_to_think.analysis.documents import json_text, markdown
from select_to_think.analysis.report import render
from select_to_think.analysis.runs import load_run
from select_to_think.evaluation.results import load_results
from select_to_think.evaluation.statistics import PairedDifference
from select_to_think.structures import S2TError

GAIN = PairedDifference(0.25, 0.125, 0.375, 30, 5, 300, 0.001)
CEILING = PairedDifference(0.5, 0.4, 0.6, 60, 0, 300, 0.0)


def make_advice(folder: Path) -> Advice:
    rows = {row.method: row for row in load_results(folder / "results.json").rows if row.domain == "all"}
    ways = [
        Way("greedy", "measured", rows["greedy"], {}),
        Way("s2t @ 3 %", "measured", replace(rows["s2t"], paired=CEILING), dict.fromkeys(DOMAINS, 0.5)),
        Way("s2t-local, activated", "probe", replace(rows["s2t-local"], paired=GAIN), {}, 150, "s2t @ 3 %"),
    ]
    recall = [
        RecallRow(name, budget, share, None, share, 0.0, share)
        for name, shares in (("kl", (0.25, 0.75)), ("entropy", (0.125, 0.5)))
        for budget, share in zip((0.01, 0.1), shares, strict=True)
    ]
    advice = Advice(
        graded_by="answers",
        candidates=8,
        n_items=300,
        domains=list(DOMAINS),
        headroom=CEILING,
        hit_at={"8": 0.95},
        main_budget=0.1,
        divergences=[
            DivergenceRow("logic", 300, 9000, 200, 10, 150, 15, 25),
            DivergenceRow("all", 0, 0, 0, 0, 0, 0, 0),
        ],
        recall=recall,
        ways=ways,
        either=None,
        recommendation=Recommendation(ways[2].name, ways[1].name, ways[2].name, [f"because {HOSTILE}"], ["not sure"]),
        check=None,
        provenance={"notes": []},
    )
    advice.save(folder)
    return advice


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "advised", per_domain=4)


@pytest.fixture(scope="module")
def advice(folder: Path) -> Advice:
    return make_advice(folder)


def test_it_is_read_back_as_it_was(folder: Path, advice: Advice) -> None:
    assert load_advice(folder) == advice == load_run(folder, name="a").advice
    assert advice.ways[0].gain == PairedDifference(0.0, 0.0, 0.0, 0, 0, advice.ways[0].row.n, None)


def test_the_tables_hold_its_numbers(advice: Advice) -> None:
    greedy, asking, probe = ways_table(advice).rows
    assert (greedy["difference"], asking["difference"], probe["difference"]) == (0.0, 0.5, 0.25)
    assert (probe["low"], probe["high"], probe["at_most"], probe["trained_on"]) == (0.125, 0.375, 0.5, 150)
    assert asking["at_most"] is None and asking["llm_forwards_per_answer"] == advice.ways[1].row.llm_forwards / 12
    logic, whole = divergence_table(advice).rows
    assert (logic["habit"], logic["not_candidate"], whole["habit"]) == (0.75, 0.05, None)
    assert [row["all"] for row in recall_table(advice).rows] == [0.25, 0.75, 0.125, 0.5]
    words = headline(advice)
    assert "train s2t-local, activated (+25.0 points [+12.5, +37.5] as a probe)" in words
    assert "With one: s2t @ 3 % (+50.0 points [+40.0, +60.0])" in words


def test_nothing_to_recommend_is_said(advice: Advice) -> None:
    nothing = replace(advice, recommendation=Recommendation("greedy", None, None, [], []))
    assert "stay with greedy" in headline(nothing) and "no way clearly gains" in headline(nothing)
    untried = replace(nothing, ways=[each for each in advice.ways if each.kind != "probe"])
    assert headline(untried).startswith("Without an LLM at inference: nothing was tried.")


def test_the_section_comes_first_and_nothing_in_it_is_obeyed(folder: Path, advice: Advice) -> None:
    page = render([load_run(folder, name="a")])
    assert page.index('<section id="advice">') < page.index('<section id="results">')
    section = page[page.index('<section id="advice">') : page.index('<section id="results">')]
    assert "<img" not in section and "because &lt;/script&gt;" in section and "not sure" in section
    assert 'data-key="difference" data-value="0.25"' in section
    other = render([load_run(make_run(folder.parent / "plain", per_domain=2), name="b")])
    assert 'id="advice"' not in other


def test_the_chart_has_a_mark_for_each_trigger_and_budget(advice: Advice) -> None:
    for width in (760, 360):
        drawn = recall_chart(advice, width)
        said = re.findall(r'aria-label="(\w+) at ([\d.]+) %: ([\d.]+) %', drawn)
        assert said == [("kl", "1", "25.0"), ("kl", "10", "75.0"), ("entropy", "1", "12.5"), ("entropy", "10", "50.0")]


def test_the_texts_have_it_too(folder: Path, advice: Advice) -> None:
    run = load_run(folder, name="a")
    text = markdown([run])
    assert text.index("## Advice") < text.index("## Ways to answer") < text.index("## What a trigger sees of them")
    assert headline(advice) in text and "- not sure\n" in text
    both = [run, replace(run, name="b")]
    assert "## Advice: a\n" in markdown(both) and "<h3>b</h3>" in (section(both) or "")
    assert json.loads(json_text([run]))["advice"]["a"] == json.loads((folder / ADVICE).read_text(encoding="utf-8"))


@pytest.mark.parametrize("damage", ['"schema": 2', '"schema": 1, "more": 0', '"schema": '])
def test_a_damaged_file_is_one_line(damage: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", per_domain=2)
    make_advice(folder)
    path = folder / ADVICE
    path.write_text(path.read_text(encoding="utf-8").replace('"schema": 1', damage, 1), encoding="utf-8")
    with pytest.raises(S2TError, match=r"advice.json.*run `s2t advise` again"):
        load_run(folder, name="a")
