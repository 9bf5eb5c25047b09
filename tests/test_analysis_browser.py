"""The report in a real headless browser: no error, no request, filters, hover and keyboard, phone, dark mode, print."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from analysis_run import DOMAINS, HOSTILE, METHODS, make_run
from headless import chromium, new_page
from select_to_think.analysis.charts import COST_AXES
from select_to_think.analysis.report import write_report
from select_to_think.analysis.runs import Run, load_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PER_DOMAIN = 14


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from chromium()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo", per_domain=PER_DOMAIN, hostile=True)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return load_run(folder, name="demo")


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    return write_report([folder], folder / "report.html")


def opened(browser: Browser, report: Path, **options: Any) -> Page:
    """The report in a page of its own."""
    page = new_page(browser, **options)
    page.goto(report.as_uri())
    return page


@pytest.fixture(scope="module")
def page(browser: Browser, report: Path) -> Iterator[Page]:
    page = opened(browser, report)
    yield page
    page.context.close()


SET_FILTERS = """([method, domain, outcome, search]) => {
  const form = document.getElementById("filters");
  form.elements.entry.value = [...form.elements.entry.options].find((option) => option.text === method).value;
  form.elements.domain.value = domain;
  form.elements.outcome.value = outcome;
  form.elements.search.value = search;
  form.elements.outcome.dispatchEvent(new Event("input", { bubbles: true }));
  document.querySelector("#item-list .more")?.click();
  return [...document.querySelectorAll("#item-list .item-id")].map((node) => node.textContent.split(" · ")[0]);
}"""


def choose(page: Page, *, method: str, domain: str = "", outcome: str = "any", search: str = "") -> list[str]:
    """Set the filters; the ids in the list (at this size one "Show more" shows all)."""
    found: list[str] = page.evaluate(SET_FILTERS, [method, domain, outcome, search])
    return found


def expected(run: Run, method: str, domain: str, outcome: str) -> list[str]:
    """The same from the records."""
    tests = {
        "any": lambda record: True,
        "right": lambda record: record.right,
        "wrong": lambda record: not record.right,
        "fixed": lambda record: run.change(method, record.id) == "fixed",
        "broken": lambda record: run.change(method, record.id) == "broken",
        "flip": lambda record: record.flips > 0,
        "cut": lambda record: record.finish_reason == "length",
    }
    return [record.id for record in run.records_of(method, domain or "all") if tests[outcome](record)]


def test_nothing_is_logged_requested_or_run_from_the_data(page: Page, report: Path) -> None:
    choose(page, method="s2t", search="script")
    assert page.messages == []  # type: ignore[attr-defined]
    assert page.requests == [report.as_uri()]  # type: ignore[attr-defined]
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("method", ["greedy", "s2t", "s2t-local"])
def test_filters_find_what_the_records_say(page: Page, run: Run, method: str) -> None:
    for outcome in ("any", "right", "wrong", "fixed", "broken", "flip", "cut"):
        for domain in ("", DOMAINS[1]):
            found = choose(page, method=method, domain=domain, outcome=outcome)
            assert found == expected(run, method, domain, outcome), (outcome, domain)
            status = page.locator("#item-status").inner_text()
            assert status.startswith(f"{len(found)} of {3 * PER_DOMAIN} items")


def test_the_status_counts_the_changes_of_the_whole_run(page: Page, run: Run) -> None:
    choose(page, method="s2t-local")
    counts = run.changes("s2t-local")
    assert counts is not None
    words = f"fixed {counts['fixed']} and broke {counts['broken']} items against greedy"
    assert words in page.locator("#item-status").inner_text()


def test_search_looks_in_ids_and_questions(page: Page) -> None:
    assert choose(page, method="greedy", search="FACTS-0003") == ["facts-0003"]
    assert len(choose(page, method="greedy", search="shells")) == PER_DOMAIN
    assert choose(page, method="greedy", search="no such words") == []
    assert "No item matches" in page.locator("#item-detail").inner_text()


def test_reset_shows_everything_again(page: Page) -> None:
    assert len(choose(page, method="llm", domain="facts", search="0001")) == 1
    page.locator("#filters button[type=reset]").click()
    page.get_by_text(f"{3 * PER_DOMAIN} of {3 * PER_DOMAIN} items").wait_for()
    assert page.locator("[name=entry] option:checked").inner_text() == "s2t-local"


def test_hostile_text_is_shown_as_it_is(page: Page) -> None:
    choose(page, method="s2t", search="logic-0000")
    shown = page.locator("#item-detail .question").evaluate("node => node.textContent")
    assert HOSTILE.replace("\ud800", "") in shown.replace("\ufffd", "").replace("\ud800", "")


def test_marks_stand_on_their_tokens(page: Page, run: Run) -> None:
    """Also behind an emoji: offsets count code points, not UTF-16 units."""
    for record in run.records_of("s2t", "arithmetic"):
        choose(page, method="s2t", search=record.id)
        answer = page.locator("#item-detail .answer").last
        shown = answer.locator("button.tok").all_text_contents()
        assert shown == [step["text"].strip() for step in record.steps]
        flips = answer.locator("button.tok.flip").count()
        assert flips == record.flips


def card_of(page: Page) -> list[list[str]]:
    return page.locator("#pop tbody tr").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((c) => c.innerText))"
    )


def first_flip(page: Page, run: Run) -> tuple[Any, dict[str, Any]]:
    """The button of the first flip of some answer, and its step in the records."""
    record = next(
        record for record in run.records_of("s2t", "facts") if record.flips and not record.id.endswith("0000")
    )
    choose(page, method="s2t", search=record.id)
    step = next(step for step in record.steps if step["flip"])
    return page.locator("#item-detail button.tok.flip").first, step


def check_card(page: Page, step: dict[str, Any]) -> None:
    rows = card_of(page)
    assert len(rows) == len(step["candidates"])
    for (text, _, logprob, score, roles), candidate in zip(rows, step["candidates"], strict=True):
        assert text == candidate["text"].replace(" ", "␣")
        assert float(logprob.replace("−", "-")) == pytest.approx(candidate["logprob"], abs=0.006)
        assert float(score) == pytest.approx(candidate["score"], abs=0.0006)
        assert ("chosen" in roles) == (candidate["id"] == step["token"])
        assert ("greedy" in roles) == (candidate["id"] == step["greedy"])
        assert ("LLM top-1" in roles) == (candidate["id"] == step["llm_top"])
    assert "Chosen by the LLM" in page.locator("#pop").inner_text()


def test_hovering_a_token_shows_its_candidates(page: Page, run: Run) -> None:
    button, step = first_flip(page, run)
    page.keyboard.press("Escape")
    assert not page.locator("#pop").is_visible()
    button.hover()
    check_card(page, step)
    page.locator("#pop").hover()
    page.wait_for_timeout(300)
    assert page.locator("#pop").is_visible(), "the card must not vanish under the pointer"
    page.mouse.move(1, 1)
    page.locator("#pop").wait_for(state="hidden")


def test_the_keyboard_reaches_tokens_and_moves_between_them(page: Page, run: Run) -> None:
    button, step = first_flip(page, run)
    button.focus()
    check_card(page, step)
    assert button.get_attribute("aria-describedby") == "pop"
    page.keyboard.press("Escape")
    assert not page.locator("#pop").is_visible()
    record = next(record for record in run.records_of("s2t", "arithmetic") if record.fired > 1)
    choose(page, method="s2t", search=record.id)
    tokens = page.locator("#item-detail button.tok")
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    assert tokens.nth(1).evaluate("node => node === document.activeElement")
    assert f"at token {record.steps[1]['index'] + 1}:" in page.locator("#pop").inner_text()


def test_the_keyboard_walks_the_list_and_the_tab_key_reaches_it(page: Page) -> None:
    choose(page, method="greedy")
    page.locator("#filters button[type=reset]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#item-list .pick").nth(1).get_attribute("aria-pressed") == "true"
    assert page.locator("#item-detail h3").inner_text() == "arithmetic · arithmetic-0001"


def test_a_chip_switches_the_method_on_the_same_item(page: Page) -> None:
    choose(page, method="greedy", search="logic-0004")
    page.locator("#item-detail .chip", has_text="takeover").click()
    assert page.locator("#item-detail h3").inner_text() == "logic · logic-0004"
    assert page.locator("#item-detail .answer .method").all_text_contents() == ["greedy", "takeover"]
    assert page.locator("[name=entry] option:checked").inner_text() == "takeover"


def test_the_cost_axis_can_be_chosen_and_points_say_their_numbers(page: Page) -> None:
    page.locator(".axes label", has_text="LLM tokens processed per answer").click()
    assert page.get_by_label("LLM tokens processed per answer", exact=True).is_checked()
    shown = page.locator("#cost figure:visible")
    assert shown.count() == 1
    points = shown.locator("svg:visible .point")
    assert points.count() == len(METHODS)
    points.first.focus()
    assert "greedy: " in page.locator("#pop").inner_text()


def test_every_cost_axis_shows_its_own_figure(page: Page) -> None:
    style = (files("select_to_think.analysis") / "page" / "style.css").read_text(encoding="utf-8")
    assert all(f"figure:nth-of-type({place})" in style for place in range(1, len(COST_AXES) + 1))
    labels = page.locator(".axes label")
    assert "LLM share of the output" in labels.all_inner_texts()
    for index, words in enumerate(labels.all_inner_texts()):
        labels.nth(index).click()
        shown = page.locator("#cost figure:visible")
        assert shown.count() == 1
        assert words in (shown.locator("svg:visible").text_content() or "")


def test_a_phone_has_no_sideways_scrolling_and_a_card_at_the_bottom(browser: Browser, report: Path) -> None:
    page = opened(browser, report, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    assert page.locator("svg.chart.narrow").first.is_visible()
    assert not page.locator("svg.chart.wide").first.is_visible()
    page.locator("#example button.tok").first.tap()
    box = page.locator("#pop").bounding_box()
    assert box is not None
    assert box["width"] <= 360 and box["y"] + box["height"] == pytest.approx(740, abs=1.5)
    page.context.close()


CONTRAST = """selector => {
  const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const channel = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (colour) => 0.2126 * channel(colour[0]) + 0.7152 * channel(colour[1]) + 0.0722 * channel(colour[2]);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
  };
  const node = document.querySelector(selector);
  const [a, b] = [light(numbers(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser: Browser, report: Path, scheme: str) -> None:
    page = opened(browser, report, color_scheme=scheme)
    selectors = [
        *("body", ".lead", "nav a", ".note", ".scroll thead th", ".scroll td", ".tile .detail", ".caution", "summary"),
        *(".verdict.right", ".verdict.wrong", "button.tok.flip", ".tok.kept", ".chip.right", ".pick .item-id"),
        *(
            '.pick[aria-pressed="true"] .item-id',
            ".candidates .chosen td",
            ".answer-facts",
            ".axes input:checked + label",
        ),
    ]
    weak = {name: round(page.evaluate(CONTRAST, name), 2) for name in selectors}
    assert {name: ratio for name, ratio in weak.items() if ratio < 4.5} == {}
    page.context.close()


def test_paper_shows_the_example_open_and_no_controls(browser: Browser, report: Path) -> None:
    page = opened(browser, report)
    page.emulate_media(media="print")
    page.evaluate("document.querySelector('#example details').open = false; dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#example .candidates").first.is_visible()
    for hidden in ("#items", "nav", ".axes > label", "#pop"):
        assert not page.locator(hidden).first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelector('#example details').open") is False
    page.context.close()


@pytest.mark.parametrize("width", [360, 800, 1200])
def test_no_cell_runs_into_the_next(browser: Browser, report: Path, width: int) -> None:
    page = opened(browser, report, viewport={"width": width, "height": 900})
    page.evaluate("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    spilling = page.evaluate(
        "[...document.querySelectorAll('td, th')].filter((c) => c.scrollWidth > c.clientWidth + 1)"
        ".map((c) => c.innerText)"
    )
    assert spilling == []
    page.context.close()


def test_every_control_has_a_name_and_ids_are_unique(page: Page) -> None:
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input, a, [tabindex="0"]')].filter((node) =>
          !(node.textContent.trim() || node.ariaLabel || node.labels?.length)).map((node) => node.outerHTML)"""
    )
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((node) => Number(node.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1


def test_two_runs_are_filtered_apart(browser: Browser, folder: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "second", per_domain=3, methods=("greedy", "s2t-local"))
    page = opened(browser, write_report([folder, other], tmp_path / "both.html"))
    value = page.locator("optgroup[label=second] option", has_text="s2t-local").get_attribute("value")
    page.locator("[name=entry]").select_option(value)
    assert page.locator("#item-list .pick").count() == 9
    titles = page.locator("#item-detail .answer .method").all_text_contents()
    assert titles == ["greedy · second", "s2t-local · second"]
    assert page.messages == []  # type: ignore[attr-defined]
    page.context.close()


def test_every_seed_can_be_read(browser: Browser, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "seeds", per_domain=5, methods=("greedy", "sample", "s2t"), seeds=(0, 7))
    run = load_run(folder, name="seeds")
    page = opened(browser, write_report([folder], tmp_path / "report.html"))
    for seed in (0, 7):
        right = [record.id for record in run.answers("sample", seed).values() if record.right]
        assert choose(page, method=f"sample, seed {seed}", outcome="right") == right
        fixed = [item for item in run.answers("sample", seed) if run.change("sample", item, seed) == "fixed"]
        assert choose(page, method=f"sample, seed {seed}", outcome="fixed") == fixed
    choose(page, method="greedy")
    chips = page.locator("#item-detail .chip")
    assert [words[2:] for words in chips.all_inner_texts()] == ["greedy", "sample, seed 0", "sample, seed 7", "s2t"]
    page.locator("#item-detail .chip", has_text="seed 7").click()
    assert page.locator("#item-detail .answer .method").all_text_contents() == ["greedy", "sample, seed 7"]
    shown = page.locator("#item-detail .answer-text").last.text_content()
    assert shown == next(iter(run.answers("sample", 7).values())).text
    assert page.messages == []  # type: ignore[attr-defined]
    page.context.close()


def test_the_page_reads_without_a_script(browser: Browser, report: Path, folder: Path) -> None:
    page = opened(browser, report, java_script_enabled=False)
    assert page.locator("#results table").first.is_visible()
    assert page.locator("#cost svg.wide").first.is_visible()
    assert "needs JavaScript" in page.locator("#items").inner_text()
    accuracy = json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"][3]["accuracy"]
    assert f"{100 * accuracy:.1f}" in page.locator("#results").inner_text()
    page.context.close()
