"""The playground in a real headless browser, against the real server over the bundled pair."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from headless import chromium, new_page
from select_to_think import Session

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")
from select_to_think.serving.static import FOLDER
from serve import SMALL, Served, serving, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

QUESTION = "Today Ida has 27 keys. Ida lends 5 keys. Kira has 48 keys. Ida lends 7 keys. How many keys does Ida have?"
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> &lt;b&gt; \u202e {{7*7}}'
PICTURE = Path(__file__).parents[1] / "docs" / "playground.png"
PICTURE_SIZE = {"width": 1440, "height": 800}
LONGEST_SCRIPT = 300  # lines
LONGEST_LINE = 135
PHONE = {"viewport": {"width": 375, "height": 740}, "has_touch": True, "is_mobile": True}


def api_answer(served: Served, question: str = QUESTION, method: str = "s2t-local", **own: Any) -> dict[str, Any]:
    """The choice that the API gives, with its trace."""
    body = {"messages": [{"role": "user", "content": question}], "seed": 0}
    own = {"method": method, "trace": True, "alternatives": 8, **own}
    reply = served.post("/v1/chat/completions", {**body, "s2t": own})
    choice: dict[str, Any] = reply.raise_for_status().json()["choices"][0]
    return choice


@contextmanager
def slowed(served: Served, seconds: float) -> Iterator[None]:
    """Every step takes so long."""
    step = served.engine.streams.step

    def slowly() -> None:
        time.sleep(seconds)
        step()

    served.engine.streams.step = slowly  # type: ignore[method-assign]
    try:
        yield
    finally:
        served.engine.streams.step = step  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(Session.load(runtime=replace(SMALL, prefix_cache_tokens=8192))) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from chromium()


Open = Callable[..., "Page"]


@pytest.fixture
def open_page(browser: Browser, served: Served) -> Iterator[Open]:
    """Pages that must log nothing, ask nobody else, and run nothing that they were told."""
    pages: list[Page] = []

    def opened(fragment: str = "", *, before: Callable[[Page], Any] | None = None, **options: Any) -> Page:
        page = new_page(browser, **options)
        if before:
            before(page)
        else:
            pages.append(page)
        page.goto(f"{served.url}/{fragment}")
        page.locator(".lane, #key-field:visible").first.wait_for(state="attached")
        return page

    yield opened
    for page in pages:
        assert page.messages == []  # type: ignore[attr-defined]
        others = [url for url in page.requests if not url.startswith((served.url, "blob:"))]  # type: ignore[attr-defined]
        assert others == []
        assert page.evaluate("window.hacked") is None
    for context in browser.contexts:
        context.close()


@pytest.fixture
def page(open_page: Open) -> Page:
    return open_page()


def settle(page: Page, cards: int) -> None:
    """Wait until so many answers are there and none is being written."""
    from playwright.sync_api import expect

    expect(page.locator(".card")).to_have_count(cards)
    ended = page.locator(".card:is([data-status=done], [data-status=failed], [data-status=stopped])")
    expect(ended).to_have_count(cards)


def ask(page: Page, question: str = QUESTION, *methods: str, cards: int | None = None) -> None:
    """Choose methods, and ask."""
    if methods:
        choose(page, *methods)
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")
    settle(page, cards or len(methods) or 1)


def choose(page: Page, *methods: str) -> None:
    if page.locator("#settings").get_attribute("open") is None:
        page.locator("#settings summary").click()
    if page.locator(".lane").count() != len(methods):
        page.locator("#compare").click()
    for lane, method in enumerate(methods):
        page.locator(".lane").nth(lane).locator("select").first.select_option(method)


def card(page: Page, number: int = 1) -> Locator:
    return page.locator(f"article[aria-label^='Answer {number}:']")


def text_of(answer: Locator) -> str:
    """The text of an answer as it stands there, without the mark of its end and without refused tokens."""
    script = """node => { const copy = node.cloneNode(true);
        copy.querySelectorAll("del, .blank").forEach((each) => each.remove()); return copy.textContent; }"""
    found: str = answer.locator(".tokens").evaluate(script)
    return found


def rows_of(page: Page) -> list[list[str]]:
    script = "rows => rows.map((row) => [...row.cells].map((cell) => cell.innerText.replace(/\\s+/g, ' ').trim()))"
    found: list[list[str]] = page.locator("#inspector tbody tr").evaluate_all(script)
    return found


def streamed(*parts: dict[str, Any], broken: dict[str, Any] | None = None) -> Callable[[Route], None]:
    """What answers a chat with these choices, as the server would stream them."""
    chunks: list[Any] = [{"choices": [{"index": 0, "delta": {}, "finish_reason": None, **part}]} for part in parts]
    lines = [json.dumps(each) for each in [*chunks, *([broken] if broken else [])]]
    body = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
    return lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body)


def step(text: str, **more: Any) -> dict[str, Any]:
    """A step of a recorded trace."""
    option = {"id": 7, "text": text, "logprob": -0.1}
    plain = {"token": 7, "text": text, "greedy": 7, "statistic": 0.1, "candidates": [], "choice": None, "flip": False}
    told = {"chooser": "slm", "llm_top": None, "index": 0, "text_added": text, "logprob": -0.1, "fired": False}
    return {**plain, **told, "llm_failed": False, "alternatives": [option], **more}


END = {"threshold": 0.4, "trigger": "entropy", "method": "s2t-local", "answer": None, "counts": None, "votes": []}


def test_the_answer_streams_in_and_is_that_of_the_api(page: Page, served: Served) -> None:
    page.evaluate("""() => { window.sizes = new Set();
        const count = () => window.sizes.add(document.querySelectorAll(".token").length);
        const everything = { childList: true, subtree: true };
        new MutationObserver(count).observe(document.querySelector("#conversation"), everything); }""")
    with slowed(served, 0.02):
        ask(page)
    expected = api_answer(served)
    assert text_of(card(page)) == expected["message"]["content"]
    assert len(page.evaluate("[...window.sizes]")) > 5
    assert card(page).locator("p.unseen").text_content() == expected["message"]["content"], "for who listens"
    steps = expected["s2t"]["steps"]
    assert page.locator(".token").count() == len(steps)
    assert page.locator(".token.flip").count() == sum(step["flip"] for step in steps) > 0
    assert "Final answer 15" in card(page).inner_text()
    assert page.locator("#status").text_content() == (
        "s2t-local has answered with 25 tokens, 2 flips. Final answer: 15."
    )
    assert "25 tokens" in card(page).locator(".facts").inner_text()
    assert "8.0 % triggered · 2 flips · no LLM · 25 forwards" in card(page).locator(".facts").inner_text()


def test_an_example_is_one_click_and_its_answer_is_compared(page: Page, served: Served) -> None:
    examples = httpx.get(f"{served.url}/v1/s2t/examples").json()
    assert examples["note"] in page.locator("#examples").inner_text()
    offered = page.locator(".example")
    assert offered.count() == 6
    asked = offered.nth(0).get_attribute("title")
    offered.nth(0).click()
    settle(page, 1)
    assert page.locator(".turn h2").inner_text() == asked
    answer = next(each["answer"] for each in examples["examples"] if each["question"] == asked)
    final = card(page).locator(".final").inner_text()
    assert final in (f"Final answer {answer} ✓",) or final.endswith(f"✗ expected {answer}")


def test_enter_asks_and_shift_enter_breaks_the_line(page: Page) -> None:
    page.locator("#question").fill("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.locator("#question").input_value() == "one\ntwo"
    assert page.locator(".card").count() == 0
    page.keyboard.press("Enter")
    settle(page, 1)
    assert page.locator(".turn h2").text_content() == "one\ntwo"


def test_text_of_models_and_users_is_never_markup(page: Page, open_page: Open) -> None:
    option = {"id": 8, "text": HOSTILE, "logprob": -2.0, "score": 1.0}
    fired = step(
        HOSTILE, fired=True, flip=True, greedy=8, candidates=[{**option, "id": 7}, option], choice=0, chooser="scorer"
    )
    page.route(
        "**/v1/chat/completions",
        streamed({"s2t": {"steps": [fired]}}, {"finish_reason": "stop", "s2t": {**END, "answer": HOSTILE}}),
    )
    ask(page, HOSTILE)
    page.locator(".token").click()
    page.locator("#refused").check()
    assert page.locator(".turn h2").text_content() == HOSTILE
    assert text_of(card(page)) == HOSTILE
    assert HOSTILE in (card(page).locator(".final").text_content() or "")
    assert page.locator("#conversation img, #inspector img, #conversation script, #inspector b > b").count() == 0
    with page.expect_download() as saved:
        page.locator("#save").click()
    other = open_page()
    other.locator("#file").set_input_files(saved.value.path())
    assert text_of(card(other)) == HOSTILE


def test_the_page_is_locked_down(served: Served) -> None:
    for path in ("/", "/page/main.js", "/page/page.css", "/page/icon.svg"):
        reply = httpx.get(served.url + path)
        policy = reply.headers["content-security-policy"]
        assert reply.status_code == 200 and "default-src 'none'" in policy and "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
    for path in ("/page/nothing.js", "/page/../static.py", "/page/%2e%2e/static.py"):
        assert httpx.get(served.url + path).status_code == 404
    document = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]* src=)|https?://", document)
    scripts = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.js")}
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function|https?:"
    )
    assert {name: found for name, text in scripts.items() if (found := forbidden.findall(text))} == {}
    assert {name for name, text in scripts.items() if len(text.splitlines()) > LONGEST_SCRIPT} == set()
    assert [line for text in scripts.values() for line in text.splitlines() if len(line) > LONGEST_LINE] == []


def test_pointing_shows_a_token_until_one_is_pinned(page: Page) -> None:
    ask(page)
    panel, tokens = page.locator("#inspector"), page.locator(".token")
    tokens.nth(0).hover()
    panel.get_by_text("token 1 of 25").wait_for()
    page.mouse.move(1, 1)
    page.wait_for_timeout(300)
    assert "token 1 of 25" in panel.inner_text(), "the panel stays open"
    tokens.nth(4).click()
    assert "token 5 of 25" in panel.inner_text()
    tokens.nth(9).hover()
    page.wait_for_timeout(300)
    assert "token 5 of 25" in panel.inner_text(), "a pinned token stays"
    assert tokens.nth(4).get_attribute("aria-current") == "true"
    page.keyboard.press("Escape")
    assert "Why this token?" in panel.inner_text()
    assert page.locator("[aria-current]").count() == 0


@pytest.mark.parametrize("at", [4, 17])
def test_the_panel_says_what_the_trace_says(page: Page, served: Served, at: int) -> None:
    told = api_answer(served)["s2t"]
    expected = told["steps"][at]
    ask(page)
    page.locator(".token").nth(at).click()
    panel = page.locator("#inspector").inner_text()
    comparison = "above" if expected["fired"] else "not above"
    start = "The trigger fired." if expected["fired"] else "No trigger here."
    assert (
        f"{start} The entropy of the SLM’s next-token distribution was {expected['statistic']:.3f} nats" in panel
        or (expected["statistic"] < 0.001)
    )
    assert f"{comparison} the threshold of {told['threshold']:.3f} (for a budget of 3.0 %)" in panel
    options = expected["candidates"] or expected["alternatives"]
    by_score = sorted(options, key=lambda option: -(option.get("score") or 0))
    rows = rows_of(page)
    assert len(rows) == len(options) == 8
    for rank, (row, option) in enumerate(zip(rows, options, strict=True), 1):
        assert row[0].replace("␣", " ").strip().startswith(option["text"].strip())
        share = 2.718281828459045 ** option["logprob"]
        assert row[1] == ("< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %")
        assert ("chosen" in row[0]) == (option["id"] == expected["token"])
        assert ("refused" in row[0]) == (expected["flip"] and option["id"] == expected["greedy"])
        if expected["fired"]:
            assert float(row[2].replace("−", "-")) == pytest.approx(option["score"], abs=0.006)
            assert row[3].startswith(f"{rank} → {by_score.index(option) + 1} ")
        else:
            assert row[2] == str(rank)


def test_a_method_without_a_trigger_says_so(page: Page) -> None:
    ask(page, QUESTION, "greedy", cards=1)
    page.locator(".token").nth(2).click()
    assert (
        "greedy has no trigger: the SLM's most probable token at every step." in page.locator("#inspector").inner_text()
    )


def test_the_keyboard_reaches_every_token_and_its_candidates(page: Page) -> None:
    ask(page)
    tokens = page.locator(".token")
    assert page.locator(".token[tabindex='0']").count() == 1, "one stop of the tab key"
    page.locator("#refused").focus()
    page.keyboard.press("Tab")
    focused = "node => node === document.activeElement"
    assert tokens.nth(0).evaluate(focused)
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert tokens.nth(2).evaluate(focused)
    assert "token 3 of 25" in page.locator("#inspector").inner_text()
    page.keyboard.press("ArrowDown")
    assert tokens.nth(4).evaluate(focused) and "flip" in (tokens.nth(4).get_attribute("class") or "")
    assert tokens.nth(4).get_attribute("aria-label") == "-, flip instead of “+”"
    page.keyboard.press("End")
    assert tokens.nth(24).evaluate(focused)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert page.locator("#inspector .option").first.evaluate(focused)
    page.keyboard.press("Escape")
    assert tokens.nth(13).evaluate(focused)
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    settle(page, 2)


def test_refused_tokens_are_struck_through_on_demand(page: Page) -> None:
    ask(page)
    struck = page.locator(".tokens del")
    assert struck.all_text_contents() == ["+", "+"]
    assert not struck.first.is_visible()
    page.locator("#refused").check()
    assert struck.first.is_visible()


def test_another_candidate_is_gone_on_from_and_stands_beside(page: Page, served: Served) -> None:
    first = api_answer(served)
    steps = first["s2t"]["steps"]
    refused = steps[4]["greedy"]
    begun = [each["token"] for each in steps[:4]] + [refused]
    ask(page)
    page.locator(".token").nth(4).click()
    with page.expect_request("**/v1/chat/completions") as sent:
        page.locator("#inspector .refused .option").click()
    settle(page, 2)
    assert sent.value.post_data_json["s2t"]["answer_tokens"] == begun
    expected = api_answer(served, answer_tokens=begun)
    before = "".join(each["text_added"] for each in steps[:4])
    assert text_of(card(page, 2)) == before + " +" + expected["message"]["content"]
    assert text_of(card(page, 1)) == first["message"]["content"]
    finals = [card(page, number).locator(".final strong").inner_text() for number in (1, 2)]
    assert finals == [first["s2t"]["answer"], expected["s2t"]["answer"]] and finals[0] != finals[1]
    one, two = (card(page, number).bounding_box() for number in (1, 2))
    assert one and two and one["y"] == two["y"] and one["x"] < two["x"]
    assert card(page, 2).locator(".taken-over").count() == 4
    assert re.search(r"· \d\d tokens reused", card(page, 2).inner_text()), "from the same keys and values"
    assert card(page, 2).locator(".yours").inner_text() == "+"
    card(page, 2).locator(".yours").click()
    assert "You chose this token." in page.locator("#inspector").inner_text()


def test_a_token_of_the_rest_of_the_vocabulary_may_be_chosen_where_nothing_fired(page: Page) -> None:
    ask(page)
    page.locator(".token").nth(16).click()
    page.locator("#inspector .option").nth(2).click()
    settle(page, 2)
    assert card(page, 2).locator("h3").inner_text().startswith("2What if:")
    assert card(page, 2).locator(".final strong").inner_text() != "15"


def test_parts_of_characters_and_special_tokens_shift_no_text(page: Page) -> None:
    written = {2: "<|say|>Hi", 3: "<|say|>Hi\ufffd", 4: "<|say|>Hi \U0001f600"}

    def detokenized(route: Route) -> None:
        route.fulfill(json={"prompt": written[len(route.request.post_data_json["tokens"])]})

    page.route("**/detokenize", detokenized)
    branched = """async kept => {
        const { branch, newTurn, answerText } = await import("/page/conversation.js");
        const steps = [["", ""], ["Hi", "Hi"], ["", "\\ufffd"], [" \U0001f600", "\\ufffd"]];
        const all = steps.map(([text_added, text], token) => ({ token, text_added, text }));
        const answer = { kept: [], steps: all, lane: 0, number: 1 };
        const turn = { question: "?", answers: [answer], history: [] };
        return answerText(await branch(turn, answer, kept, { id: 9, text: "\\ufffd" }, {}));
    }"""
    assert [page.evaluate(branched, kept) for kept in (2, 3)] == ["Hi", "Hi \U0001f600"]
    shown = """async () => {
        const { Tokens } = await import("/page/tokens.js");
        const steps = [["", ""], ["Hi", "Hi"], ["", "\\ufffd"], ["\U0001f600", "\\ufffd"], ["", ""]];
        const answer = { kept: [], steps: steps.map(([text_added, text]) => ({ text_added, text })) };
        const tokens = new Tokens(answer, { method: "greedy" });
        tokens.update();
        return tokens.elements.map((element) => element.textContent);
    }"""
    assert page.evaluate(shown) == ["\u00b7", "Hi", "\u00b7", "\U0001f600", "\u220e"]


def test_rewinding_decides_anew_with_the_settings_of_the_form(page: Page, served: Served) -> None:
    ask(page)
    choose(page, "greedy")
    page.locator(".token").nth(13).click()
    page.get_by_role("button", name="Rewind to here").click()
    settle(page, 2)
    begun = [each["token"] for each in api_answer(served)["s2t"]["steps"][:13]]
    again = api_answer(served, method="greedy", answer_tokens=begun)
    assert text_of(card(page, 2)).endswith(again["message"]["content"])
    assert "greedy from token 14 of answer 1" in card(page, 2).inner_text()
    assert card(page, 2).locator(".yours").count() == 0
    card(page, 2).get_by_role("button", name="Remove").click()
    assert page.locator(".card").count() == 1
    card(page, 1).get_by_role("button", name="Remove").click()
    assert page.locator("#welcome").is_visible()


def downloaded(page: Page, click: Callable[[], None]) -> dict[str, Any]:
    with page.expect_download() as found:
        click()
    content: dict[str, Any] = json.loads(Path(found.value.path()).read_text(encoding="utf-8"))
    return content


def test_a_pair_and_a_trace_are_exported(page: Page, served: Served) -> None:
    first = api_answer(served)
    ask(page)
    trace = downloaded(page, card(page).get_by_role("button", name="Trace").click)
    assert trace["prompt"] == QUESTION and trace["steps"] == first["s2t"]["steps"]
    assert trace["messages"] == [{"role": "user", "content": QUESTION}]
    assert trace["counts"] == first["s2t"]["counts"] and trace["threshold"] == first["s2t"]["threshold"]
    page.locator(".token").nth(4).click()
    page.locator("#inspector .refused .option").click()
    settle(page, 2)
    texts = [text_of(card(page, number)) for number in (1, 2)]
    other = downloaded(page, card(page, 2).get_by_role("button", name="Prefer the other").click)
    this = downloaded(page, card(page, 2).get_by_role("button", name="Prefer this").click)
    assert (other["prompt"], other["chosen"], other["rejected"]) == (QUESTION, *texts)
    assert (this["chosen"], this["rejected"]) == (texts[1], texts[0])
    assert other["shared"] == "First Ida has 27" and other["token"] == 4
    assert other["chosen_tokens"] == [each["token"] for each in first["s2t"]["steps"]]


def test_two_methods_answer_one_prompt_in_one_batch(page: Page, served: Served) -> None:
    choose(page, "s2t", "greedy")
    rows = []
    with slowed(served, 0.02):
        page.locator("#question").fill(QUESTION)
        page.keyboard.press("Enter")
        while page.locator(".card:not([data-status=done])").count() or not rows:
            rows.append(served.engine.state()["rows"])
    settle(page, 2)
    assert max(rows) == 2, "both at once"
    for number, method in ((1, "s2t"), (2, "greedy")):
        assert text_of(card(page, number)) == api_answer(served, method=method)["message"]["content"]
        assert card(page, number).locator("h3").inner_text() == f"{number}{method}"


def test_settings_go_along(page: Page) -> None:
    choose(page, "s2t", "mentor-free")
    lane, other = page.locator(".lane").nth(0), page.locator(".lane").nth(1)
    lane.get_by_label("Trigger").select_option("margin")
    lane.get_by_label("Budget %").fill("10")
    lane.get_by_label("Candidates K").fill("4")
    other.get_by_label("Asks at % of words").fill("100")
    page.get_by_label("Most tokens").fill("9")
    page.get_by_label("Seed").fill("3")
    bodies: list[Any] = []
    page.on("request", lambda sent: bodies.append(sent.post_data_json) if sent.method == "POST" else None)
    ask(page, cards=2)
    own = {"method": "s2t", "trace": True, "alternatives": 8}
    assert bodies[0]["s2t"] == {**own, "trigger": "margin", "trigger_budget": 0.1, "candidates": 4}
    assert bodies[1]["s2t"] == {**own, "method": "mentor-free", "consult_rate": 1}
    assert all(
        (body["model"], body["max_completion_tokens"], body["seed"]) == (f"demo:{body['s2t']['method']}", 9, 3)
        for body in bodies
    )
    assert "Cut off at the longest answer" in card(page).inner_text()
    assert "margin 10 % · K 4" in card(page).inner_text()


def test_the_form_begins_with_what_the_server_says(open_page: Open) -> None:
    def changed(route: Route) -> None:
        told = route.fetch().json()
        for each in told["data"]:
            each["s2t"].update(
                {
                    "trigger_budget": 0.07,
                    "candidates": 5,
                    "consult_rate": 0.4,
                    "trigger": each["s2t"]["trigger"] and "margin",
                }
            )
        route.fulfill(json=told)

    page = open_page(before=lambda page: page.route("**/v1/models", changed))
    assert page.locator("#settings summary").inner_text() == "s2t-local · margin 7 % · K 5"
    choose(page, "mentor-free")
    assert page.get_by_label("Asks at % of words").input_value() == "40"


def test_the_skip_link_leaves_the_address_to_the_conversation(page: Page) -> None:
    ask(page)
    page.wait_for_url(re.compile("#ask"))
    before = page.url
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.url == before and page.evaluate("document.activeElement.id") == "question"


def test_a_panel_begins_at_its_top_and_rewinds_with_valid_settings(open_page: Open) -> None:
    page = open_page(viewport={"width": 360, "height": 500}, has_touch=True, is_mobile=True)
    ask(page)
    page.locator(".token").nth(4).click()
    page.locator("#inspector").evaluate("panel => { panel.scrollTop = 999; }")
    assert page.locator("#inspector").evaluate("panel => panel.scrollTop") > 0
    page.locator("#seed").evaluate("input => { input.value = '-3'; }")
    page.get_by_role("button", name="Rewind to here").click()
    page.wait_for_timeout(200)
    assert page.locator(".card").count() == 1
    page.evaluate("document.querySelectorAll('.token')[6].click()")
    assert page.locator("#inspector").evaluate("panel => panel.scrollTop") == 0


def test_settings_out_of_range_are_shown_and_not_sent(page: Page) -> None:
    choose(page, "s2t-local")
    page.locator(".lane").get_by_label("Budget %").fill("101")
    page.locator("#settings summary").click()
    page.locator("#question").fill(QUESTION)
    page.locator("#ask").click()
    assert page.locator("#settings").get_attribute("open") is not None
    assert page.locator(".card").count() == 0
    page.locator(".lane").get_by_label("Budget %").fill("0")
    ask(page)
    page.locator(".token").nth(4).click()
    assert "there is no finite threshold" in page.locator("#inspector").inner_text()


def test_segments_are_shaded_by_their_author(page: Page, served: Served) -> None:
    choose(page, "mentor-free")
    page.locator(".lane").get_by_label("Asks at % of words").fill("100")
    ask(page)
    steps = api_answer(served, method="mentor-free", consult_rate=1.0)["s2t"]["steps"]
    by_llm = "".join(each["text_added"] for each in steps if each["chooser"] == "llm")
    assert by_llm
    assert "".join(page.locator(".tokens .by-llm").all_text_contents()) == by_llm
    page.locator(".disputed").first.click()
    panel = page.locator("#inspector").inner_text()
    assert "The LLM, asked as mentor, wrote another word than the SLM." in panel
    fired = next(each for each in steps if each["fired"])
    assert [row[0].split(" the ")[0] for row in rows_of(page)] == [
        option["text"].strip() for option in fired["candidates"]
    ]
    page.locator("#inspector .option").click()
    settle(page, 2)
    assert card(page, 2).locator(".yours").inner_text() == "+", "its first token, not the whole segment"
    assert card(page, 2).locator("h3").inner_text() == "2What if: “+”"


def test_failures_are_red_and_can_be_tried_again(open_page: Open) -> None:
    page = open_page(before=lambda page: None)
    page.route(
        "**/v1/chat/completions",
        streamed(
            {"s2t": {"steps": [step("Well"), step(" now", llm_failed=True)]}},
            broken={
                "error": {"message": "the LLM <b>hung up</b>", "type": "server_error", "param": None, "code": None}
            },
        ),
    )
    ask(page)
    assert page.locator(".token.failed").inner_text() == "now"
    assert "the LLM <b>hung up</b>" in card(page).inner_text()
    page.locator(".token.failed").click()
    assert "The LLM did not answer here, so the SLM went on alone." in page.locator("#inspector").inner_text()
    page.unroute("**/v1/chat/completions")
    card(page).get_by_role("button", name="Try again").click()
    settle(page, 1)
    assert "Final answer 15" in card(page).inner_text()
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, cards=2)
    assert "The server does not answer" in page.locator("#notice").inner_text()


def test_stop_ends_the_answer_and_its_run(page: Page, served: Served) -> None:
    with slowed(served, 0.1):
        page.locator("#question").fill(QUESTION)
        page.keyboard.press("Enter")
        page.locator(".token").nth(2).wait_for()
        assert page.locator("#stop").is_visible()
        page.locator("#stop").click()
        settle(page, 1)
    assert card(page).get_attribute("data-status") == "stopped"
    assert 3 <= page.locator(".token").count() < 25
    assert not page.locator("#stop").is_visible()
    until(lambda: not served.engine.state()["rows"])
    ask(page, cards=2)
    assert "Final answer 15" in card(page.locator(".turn").last, 1).inner_text()  # type: ignore[arg-type]


def test_what_leaves_the_page_is_asked_no_further(page: Page, open_page: Open, served: Served) -> None:
    ask(page)
    ask(page, cards=2)
    fragment = page.evaluate("location.hash")
    other = open_page()
    with slowed(served, 0.1):
        other.evaluate("hash => { location.hash = hash; }", fragment)
        other.locator(".token").nth(3).wait_for()
        other.locator("#new").click()
        other.wait_for_timeout(1000)
        assert other.locator(".card").count() == 0 and not served.engine.state()["rows"]
    ask(other)
    with slowed(served, 0.3):
        other.locator(".token").nth(4).click()
        other.locator("#inspector .refused .option").click()
        card(other, 2).locator(".token").nth(5).wait_for()
        card(other, 1).get_by_role("button", name="Remove").click()
        until(lambda: not served.engine.state()["rows"], seconds=3)
    assert other.locator("#welcome").is_visible() and other.locator("#notice").inner_text() == ""


def test_a_conversation_that_cannot_be_asked_again_keeps_its_address(page: Page, open_page: Open) -> None:
    ask(page)
    page.locator(".token").nth(4).click()
    page.locator("#inspector .refused .option").click()
    settle(page, 2)
    page.wait_for_url(re.compile("#ask"))
    fragment = page.evaluate("location.hash")
    busy = {"status": 429, "json": {"error": {"message": "busy"}}}
    other = open_page(
        fragment, before=lambda page: page.route("**/v1/chat/completions", lambda route: route.fulfill(**busy))
    )
    settle(other, 1)
    other.wait_for_timeout(200)
    assert other.evaluate("location.hash") == fragment


def test_the_panel_keeps_the_focus_while_the_answer_is_written(page: Page, served: Served) -> None:
    from playwright.sync_api import expect

    with slowed(served, 0.1):
        page.locator("#question").fill(QUESTION)
        page.keyboard.press("Enter")
        page.locator(".token").nth(3).wait_for()
        page.locator(".token").nth(2).click()
        page.locator("#inspector .option").first.focus()
        before = page.locator("#inspector .place").inner_text()
        expect(page.locator("#inspector .place")).not_to_have_text(before)
        assert page.evaluate("document.activeElement.className") == "option"
        page.locator("#stop").click()
    settle(page, 1)
    assert page.evaluate("document.activeElement.id") != "question"


def test_counters_of_the_server_are_live(page: Page, served: Served) -> None:
    ask(page)
    page.locator("#server").get_by_text(
        re.compile(r"0 answers in the batch · 0 waiting · [1-9]\d* tokens/s")
    ).wait_for()
    forwards = f"{served.engine.state()['slm_forwards']:,.0f} SLM forwards"
    page.locator("#server").get_by_text(forwards).wait_for()


def test_the_address_holds_the_conversation(page: Page, open_page: Open) -> None:
    ask(page, QUESTION, "s2t-local", "greedy")
    page.locator(".token").nth(4).click()
    page.locator("#inspector .refused .option").click()
    settle(page, 3)
    page.locator("#new").focus()
    page.wait_for_url(re.compile("#askz="))
    page.evaluate("() => navigator.clipboard")
    fragment = page.evaluate("location.hash")
    assert len(fragment) < 700, "compressed"
    other = open_page(fragment)
    settle(other, 3)
    assert [text_of(card(other, number)) for number in (1, 2, 3)] == [
        text_of(card(page, number)) for number in (1, 2, 3)
    ]
    assert other.locator("#settings summary").inner_text() == page.locator("#settings summary").inner_text()
    assert card(other, 3).locator(".yours").inner_text() == "+"
    other.locator("#new").click()
    assert other.evaluate("location.hash") == "" and other.locator(".card").count() == 0
    assert other.locator("#welcome").is_visible()


def test_a_conversation_too_long_for_an_address_is_not_given_one(page: Page) -> None:
    ask(page)
    page.locator("#seed").evaluate("input => { input.value = ''; }")  # which is 0
    recipe = """async answers => {
        const { fromHash, recipe, toHash } = await import("/page/saved.js");
        const settings = { method: "greedy", seed: 0 };
        const turn = { question: "?", answers: [{ number: 1, lane: 0, settings, origin: null }] };
        const hash = await toHash(recipe([settings], Array(answers).fill(turn)));
        return hash && (await fromHash("#" + hash)).turns.length;
    }"""
    assert [page.evaluate(recipe, answers) for answers in (50, 51)] == [50, None]
    page.locator("#link").click()
    page.wait_for_url(re.compile("#ask"))
    assert (
        page.evaluate("import('/page/saved.js').then(({ fromHash }) => fromHash(location.hash))")["lanes"][0]["seed"]
        == 0
    )


@pytest.mark.parametrize(
    "fragment", ["#ask=e30", "#askz=1ZIx", "#ask=%%%", "#askz=", "#ask=bnVsbA", "#ask=" + 60_000 * "e"]
)
def test_an_address_that_is_cut_off_says_so(open_page: Open, fragment: str) -> None:
    page = open_page(fragment)
    page.locator("#notice").get_by_text("The address holds no conversation that can be read").wait_for()
    ask(page)


def test_a_saved_conversation_is_shown_without_asking_again(page: Page, open_page: Open) -> None:
    ask(page)
    page.locator(".token").nth(4).click()
    page.locator("#inspector .refused .option").click()
    settle(page, 2)
    with page.expect_download() as saved:
        page.locator("#save").click()
    other = open_page()
    other.requests.clear()  # type: ignore[attr-defined]
    other.locator("#file").set_input_files(saved.value.path())
    settle(other, 2)
    assert not [url for url in other.requests if "completions" in url]  # type: ignore[attr-defined]
    assert [text_of(card(other, number)) for number in (1, 2)] == [text_of(card(page, number)) for number in (1, 2)]
    other.locator(".token").nth(4).click()
    assert rows_of(other)[0][0].startswith("+")
    other.locator("#inspector .option").nth(1).click()
    settle(other, 3)
    content = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
    content["turns"][0]["answers"][0]["status"] = "streaming"
    begun = {"name": "begun.json", "mimeType": "application/json", "buffer": json.dumps(content).encode()}
    unfinished = open_page()
    unfinished.locator("#file").set_input_files(begun)  # type: ignore[arg-type]
    unfinished.get_by_text("Stopped.").wait_for()
    assert unfinished.locator(".card[aria-busy=true]").count() == 0, "nobody writes it any more"
    content["turns"][0]["answers"][0]["steps"][4]["candidates"][0]["score"] = "high"
    tampered = {"name": "a.json", "mimeType": "application/json", "buffer": json.dumps(content).encode()}
    other.locator("#file").set_input_files(tampered)  # type: ignore[arg-type]
    other.locator("#notice").get_by_text("This file holds no conversation of this page.").wait_for()
    assert other.locator(".card").count() == 3


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", '{"format": "s2t-playground/1"}', '{"format": "s2t-playground/1", "lanes": [1], "turns": []}'],
)
def test_another_file_is_refused(page: Page, tmp_path: Path, content: str) -> None:
    (tmp_path / "other.json").write_text(content)
    page.locator("#file").set_input_files(tmp_path / "other.json")
    page.locator("#notice").get_by_text("This file holds no conversation of this page.").wait_for()
    ask(page)


@pytest.mark.parametrize("method", ["sample", "maj@8", "distill", "llm", "takeover", "mentor-mlp", "mentor-coin"])
def test_every_method_is_shown(page: Page, served: Served, method: str) -> None:
    ask(page, QUESTION, method)
    expected = api_answer(served, method=method)
    assert text_of(card(page)) == expected["message"]["content"]
    assert (f"Votes: {', '.join(expected['s2t']['votes'])}" in card(page).inner_text()) == (method == "maj@8")
    page.locator(".token").nth(4).click()
    assert page.locator("#inspector h2").is_visible()


@pytest.mark.parametrize("chats", [True, False])
def test_earlier_turns_go_along_unless_the_pair_knows_only_its_examples(open_page: Open, chats: bool) -> None:
    bare = {"note": "", "examples": []}
    page = open_page(
        before=lambda page: page.route(
            "**/v1/s2t/examples", lambda route: route.fulfill(json=bare) if chats else route.continue_()
        )
    )
    ask(page, QUESTION, "greedy", "s2t-local")
    with page.expect_request(
        lambda sent: sent.method == "POST" and "s2t-local" in sent.post_data_json["model"]
    ) as sent:
        ask(page, "And Kira?", cards=4)
    answer = text_of(card(page.locator(".turn").first, 2))  # type: ignore[arg-type]
    said = [(each["role"], each["content"]) for each in sent.value.post_data_json["messages"]]
    before = [("user", QUESTION), ("assistant", answer)] if chats else []
    assert said == [*before, ("user", "And Kira?")]
    trace = downloaded(page, card(page.locator(".turn").nth(1), 2).get_by_role("button", name="Trace").click)  # type: ignore[arg-type]
    assert trace["messages"] == sent.value.post_data_json["messages"]
    card(page.locator(".turn").nth(1), 2).get_by_role("button", name="Remove").click()  # type: ignore[arg-type]
    assert page.evaluate("document.activeElement.textContent") == "And Kira?"


def violations(page: Page) -> list[str]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe comes with `make test`")
    found = axe.Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:120]}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize(
    "options", [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"]
)
def test_axe_finds_nothing(open_page: Open, options: dict[str, Any]) -> None:
    page = open_page(reduced_motion="reduce", **options)
    assert violations(page) == []
    choose(page, "mentor-free", "s2t-local")
    assert violations(page) == []
    page.locator(".lane").nth(0).get_by_label("Asks at % of words").fill("100")
    ask(page, cards=2)
    page.locator("#refused").check()
    page.locator(".token.flip").first.click()
    assert violations(page) == []
    page.locator("#inspector .refused .option").click()
    settle(page, 3)
    page.locator(".disputed").first.click()
    assert violations(page) == []


def test_a_phone_shows_a_sheet_that_hides_neither_token_nor_answer(open_page: Open) -> None:
    page = open_page(**PHONE, reduced_motion="reduce")  # nothing slides while it is measured
    page.locator("#question").fill(QUESTION)
    page.locator("#ask").tap()
    settle(page, 1)
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    token = page.locator(".token.flip").last
    token.tap()
    sheet, box = page.locator("#inspector").bounding_box(), token.bounding_box()
    assert sheet and box
    assert sheet["width"] == 375 and sheet["y"] + sheet["height"] == pytest.approx(740, abs=1.5)
    assert box["y"] + box["height"] <= sheet["y"], "the token is above the sheet"
    page.locator("#inspector .refused .option").tap()
    settle(page, 2)
    assert not page.locator("#inspector").is_visible()
    page.locator(".final").first.evaluate("final => { final.textContent = 'x'.repeat(300); }")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_the_picture_of_the_readme_is_of_this_page(open_page: Open, tmp_path: Path) -> None:
    """S2T_PICTURE=1 writes docs/playground.png anew."""
    page = open_page(viewport=PICTURE_SIZE, reduced_motion="reduce")
    ask(page, QUESTION, "s2t-local", "greedy")
    page.locator("#refused").check()
    page.locator(".token.flip").first.click()
    page.locator("#inspector .refused .option").click()
    settle(page, 3)
    page.mouse.move(1, 1)
    path = PICTURE if os.environ.get("S2T_PICTURE") else tmp_path / "playground.png"
    page.screenshot(path=path)
    assert (size_of(path), size_of(PICTURE)) == ((1440, 800), (1440, 800))


def size_of(picture: Path) -> tuple[int, ...]:
    """Width and height of a PNG."""
    return struct.unpack(">II", picture.read_bytes()[16:24])


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """`s2t playground` with a key: the address that it told the browser to open, and what is there."""
    folder = tmp_path_factory.mktemp("playground")
    script, seen, keys = folder / "browser.py", folder / "seen", folder / "keys"
    script.write_text(
        "import pathlib, sys, urllib.request\n"
        "page = urllib.request.urlopen(sys.argv[1]).read().decode()\n"
        f"pathlib.Path({str(seen)!r}).write_text(sys.argv[1] + page)\n"
    )
    keys.write_text("the-right-key\n")
    program = subprocess.Popen(
        [sys.executable, "-m", "select_to_think", "playground", "--kv-memory-gib", "0.05", "--api-key-file", keys],
        env={**os.environ, "BROWSER": f"{sys.executable} {script} %s"},
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: program.poll() is not None or (seen.exists() and seen.read_text()), seconds=120)
        assert program.poll() is None
        url, _, document = seen.read_text().partition("<")
        yield url, document
    finally:
        program.send_signal(signal.SIGINT)
        assert program.wait(timeout=60) == 130


def test_playground_opens_the_page_on_a_free_port(playground: tuple[str, str]) -> None:
    url, document = playground
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url) and not url.endswith(":8000")
    assert "Watch a small model decide" in document


def test_a_key_is_asked_for_and_kept_in_the_tab(browser: Browser, playground: tuple[str, str]) -> None:
    page = new_page(browser)
    page.goto(playground[0])
    page.locator("#key").wait_for()
    told = page.locator("#notice").inner_text()
    page.locator("#open").click()
    page.evaluate("location.hash = '#ask=e30'")
    assert told and page.locator("#notice").inner_text() == told and page.locator("#key-field").is_visible()
    page.locator("#key").fill("smart\u201dkey")
    page.keyboard.press("Enter")
    page.locator("#notice").get_by_text("a character that no key has").wait_for()
    assert page.locator("#key").get_attribute("type") == "password"
    page.locator("#key").fill("wrong")
    with page.expect_response("**/v1/models") as refused:
        page.keyboard.press("Enter")
    assert refused.value.status == 401
    page.locator("#notice").get_by_text(told).wait_for()
    page.locator("#key").fill("the-right-key")
    page.keyboard.press("Enter")
    page.locator(".example").first.wait_for()
    assert not page.locator("#key-field").is_visible()
    ask(page)
    assert "Final answer 15" in card(page).inner_text()
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    assert "the-right-key" not in page.url
    page.context.close()
