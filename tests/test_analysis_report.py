"""The report as a file: its numbers, its escaping, its independence of any network, its limits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from analysis_run import HOSTILE, METHODS, make_run
from select_to_think.analysis.items import select
from select_to_think.analysis.markup import Html, element, join
from select_to_think.analysis.report import render, write_report
from select_to_think.analysis.runs import load_runs
from select_to_think.analysis.sections import lead
from select_to_think.structures import S2TError


class Page(HTMLParser):
    """Elements with their attributes, the text of each table, the contents of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.rows: list[dict[str, str]] = []
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.append((tag, values))
        self._open = tag
        if tag == "tr":
            self.rows.append({})
        if tag == "td" and values.get("data-value"):
            self.rows[-1][str(values["data-key"])] = str(values["data-value"])
        if tag == "th" and values.get("scope") == "row":
            self._open = "row"

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts.append(data)
            return
        self.words.append(data)
        if self._open in ("row", "span") and self.rows and "method" not in self.rows[-1]:
            self.rows[-1]["method"] = data

    def handle_endtag(self, tag: str) -> None:
        if tag == "span" and self._open == "span":
            self._open = "row"
        else:
            self._open = ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "hostile", per_domain=6, hostile=True)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return render(load_runs([folder]))


def test_the_headline_table_holds_the_numbers_of_results_json(folder: Path, page: str) -> None:
    parsed = Page(page)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]
    headline = [row for row in parsed.rows if "accuracy" in row][: len(METHODS)]
    expected = [row for row in results if row["domain"] == "all"]
    assert [row["method"] for row in headline] == [row["method"] for row in expected]
    for shown, row in zip(headline, expected, strict=True):
        for name in ("accuracy", "trigger_rate", "flip_rate", "hit_at_8", "tokens_per_second", "n"):
            assert shown.get(name) == (None if row[name] is None else repr(row[name])), name
        assert shown["llm_forwards_per_answer"] == repr(row["llm_forwards"] / row["n"])


def test_text_cannot_become_markup(page: str) -> None:
    parsed = Page(page)
    scripts = [values for tag, values in parsed.elements if tag == "script"]
    assert [values.get("type") for values in scripts] == ["application/json", None]
    assert not any(tag == "img" for tag, _ in parsed.elements)
    assert not any(name.startswith("on") for _, values in parsed.elements for name in values)
    payload = json.loads(parsed.scripts[0])
    assert HOSTILE in payload["items"][0]["question"]
    assert any(HOSTILE in answer["text"] for answer in payload["items"][0]["answers"].values())


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    evil = "<svg onload=alert(1)>"
    folder = make_run(tmp_path / f"{evil}&amp;", per_domain=2, methods=("greedy", "s2t-local"), domains=("arithmetic",))
    for path in folder.iterdir():
        path.write_text(path.read_text(encoding="utf-8").replace('"arithmetic"', json.dumps(evil)), encoding="utf-8")
    page = render(load_runs([folder]))
    assert evil not in page
    assert evil in "".join(Page(page).words)


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    for tag, values in Page(page).elements:
        assert "src" not in values, tag
        assert re.match(r"#|data:", values.get("href") or "#"), values
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "http:" not in page and "https:" not in page


def test_only_the_pages_own_script_may_run(page: str) -> None:
    script = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


def test_remarks_stand_beside_the_numbers(folder: Path, page: str) -> None:
    note = json.loads((folder / "results.json").read_text(encoding="utf-8"))["provenance"]["notes"][0]
    assert note in page.split('id="domains"')[0]


def test_uncommitted_code_is_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", per_domain=2, methods=("greedy",))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    results["provenance"]["dirty"] = True
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert "uncommitted changes" in render(load_runs([folder]))


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"measured": False}, "hit"),
        ({"methods": ("llm",)}, "differences"),
        ({"methods": ("greedy",)}, "example"),
        ({"domains": ("facts",)}, "domains"),
    ],
)
def test_a_section_without_data_is_left_out(tmp_path: Path, options: dict[str, Any], gone: str) -> None:
    page = render(load_runs([make_run(tmp_path / "run", per_domain=3, **options)]))
    assert f'<section id="{gone}">' not in page
    assert f'href="#{gone}"' not in page
    assert '<section id="results">' in page


def test_results_without_records_still_make_a_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", per_domain=3)
    for path in folder.glob("records-*"):
        path.unlink()
    page = render(load_runs([folder]))
    assert '<section id="items">' not in page
    assert '<section id="cost">' in page


def test_one_item_without_a_standard_error_makes_a_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", per_domain=1, domains=("facts",))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for row in results["results"]:
        row["stderr"] = None
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert '<section id="results">' in render(load_runs([folder]))


def test_two_runs_share_a_page(folder: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "second", per_domain=3, methods=("greedy", "s2t-local"))
    page = render(load_runs([folder, other]))
    payload = json.loads(Page(page).scripts[0])
    assert {entry["run"] for entry in payload["entries"]} == {"hostile", "second"}
    assert "s2t-local · second" in page
    first, second = load_runs([folder, other])
    assert lead([first]) != lead([second]) and lead([first, second]).startswith("8 decoding methods on 9 to ")


def test_every_seed_is_an_entry_beside_the_baseline_with_that_seed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", per_domain=9, methods=("greedy", "sample", "maj@8"), seeds=(3, 1))
    (run,) = load_runs([folder])
    entries = select([run]).payload["entries"]
    names = ["greedy", "sample, seed 3", "sample, seed 1", "maj@8, seed 3", "maj@8, seed 1"]
    assert [entry["name"] for entry in entries] == names
    assert [entry["against"] for entry in entries] == [0] * 5
    for entry in entries[1:]:
        right = [run.answers(method, entry["seed"]) for method in ("greedy", entry["method"])]
        fixed = [item for item in right[0] if not right[0][item].right and right[1][item].right]
        assert entry["changes"]["fixed"] == len(fixed)
    assert entries[1]["changes"] != entries[2]["changes"]
    drawn = replace(run, rows=tuple(replace(row, baseline="sample") for row in run.rows))
    assert [entry["against"] for entry in select([drawn]).payload["entries"]] == [1, 1, 2, 1, 2]
    single = make_run(tmp_path / "single", per_domain=2)
    assert [entry["name"] for entry in select(load_runs([single])).payload["entries"]] == list(METHODS)


def test_a_small_page_still_shows_every_domain_and_every_kind_of_change(tmp_path: Path) -> None:
    runs = load_runs([make_run(tmp_path / "run", per_domain=40)])
    selection = select(runs, max_items=24)
    assert (selection.chosen, selection.total) == (24, 120)
    shown = {item["id"] for item in selection.payload["items"]}
    assert {item.split("-")[0] for item in shown} == {"arithmetic", "facts", "logic"}
    for method in METHODS:
        kinds = {runs[0].change(method, record.id) for record in runs[0].records_of(method)}
        assert kinds == {runs[0].change(method, item) for item in shown} | (
            {None} if method == "greedy" else kinds & {None}
        )


def test_the_page_stays_small_and_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = load_runs([make_run(tmp_path / "run", per_domain=20)])
    whole = select(runs)
    assert whole.chosen == whole.total == 60
    part = select(runs, max_bytes=100_000)
    assert 1 < part.chosen < 60
    assert len(json.dumps(part.payload)) < 130_000
    monkeypatch.setattr("select_to_think.analysis.report.select", lambda _: part)
    assert f"{part.chosen} of 60 items are on this page" in "".join(Page(render(runs)).words)


def test_a_very_long_answer_is_cut_and_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", per_domain=1, methods=("greedy",), domains=("facts",))
    path = folder / "records-greedy.jsonl"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["text"], record["question"] = "x" * 100_000, "Read: " + "y" * 100_000 + " So what?"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    answer = select(load_runs([folder])).payload["items"][0]["answers"]["0"]
    assert len(answer["text"]) + answer["cut"] == 100_000
    assert len(answer["text"]) < 10_000
    question = select(load_runs([folder])).payload["items"][0]["question"]
    assert question.startswith("Read: yy") and question.endswith("yy So what?") and len(question) < 10_000
    assert " characters …] " in question


def test_the_example_is_an_answer_that_the_local_scorer_fixed(tmp_path: Path) -> None:
    runs = load_runs([make_run(tmp_path / "run", per_domain=30)])
    payload = select(runs).payload
    entry = payload["entries"][payload["example"]["entry"]]
    item = payload["items"][payload["example"]["item"]]
    assert entry["method"] == "s2t-local"
    assert runs[0].change("s2t-local", item["id"]) == "fixed"


def test_the_page_is_replaced_whole_or_not_at_all(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    assert write_report([folder], out) == out
    assert out.read_text(encoding="utf-8").endswith("</html>\n")
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(S2TError, match="cannot write"):
        write_report([folder], tmp_path / "file" / "report.html")


def test_markup_escapes_whatever_is_not_markup() -> None:
    assert element("b", "<&", Html("<i></i>"), title='">', hidden=True, id=None) == (
        '<b title="&quot;&gt;" hidden>&lt;&amp;<i></i></b>'
    )
    assert join("\x00a\ud800", None) == "\ufffda\ufffd"
    assert element("b", title=Html('"')) == '<b title="&quot;"></b>'
