"""The two sections of the report for reading answers: the worked example and the item browser.

Only their frames are written here; the page's script fills them from the embedded items.

Non-goals: which items are embedded (`items.py`), how an answer is drawn (`page/answer.js`).
"""

from __future__ import annotations

from collections.abc import Sequence

from select_to_think.analysis.items import Selection
from select_to_think.analysis.markup import Html, element, join
from select_to_think.analysis.runs import Run, baseline_name


def outcomes(baseline: str) -> tuple[tuple[str, str], ...]:
    """What the items can be filtered by: (value, words)."""
    return (
        ("any", "any outcome"),
        ("right", "right"),
        ("wrong", "wrong"),
        ("fixed", f"fixed: wrong → right against {baseline}"),
        ("broken", f"broken: right → wrong against {baseline}"),
        ("flip", "with a flip"),
        ("cut", "cut off"),
    )


def example(selection: Selection) -> Html | None:
    """The place of the worked example, which the page's script fills."""
    if selection.payload["example"] is None:
        return None
    return join(
        element("h2", "One answer, step by step"),
        element(
            "p",
            "Marked tokens are triggered steps: ",
            element("span", "flips", class_="tok flip"),
            " took another token than the small model's greedy one, ",
            element("span", "kept", class_="tok kept"),
            " steps stayed with it. Point at one, tap it or reach it with the keyboard to see the candidates.",
        ),
        element("div", element("noscript", element("p", "The example needs JavaScript.")), id="example-body"),
    )


def browser(runs: Sequence[Run], selection: Selection) -> Html | None:
    """The item browser's frame: filters, list and detail, which the page's script fills."""
    if not selection.chosen:
        return None
    payload = selection.payload
    preferred = payload["example"]["entry"] if payload["example"] else 0
    methods = []
    for run in runs:
        options = [
            element("option", entry["name"], value=index, selected=index == preferred)
            for index, entry in enumerate(payload["entries"])
            if entry["run"] == run.name
        ]
        methods.append(element("optgroup", *options, label=run.name) if len(runs) > 1 else join(*options))
    everywhere = element("option", "all domains", value="")
    results = [element("option", words, value=value) for value, words in outcomes(baseline_name(runs))]
    domains_ = [everywhere, *(element("option", name, value=name) for name in payload["domains"])]
    words = f"All {selection.total:,} items are here."
    if selection.chosen < selection.total:
        words = (
            f"{selection.chosen:,} of {selection.total:,} items are on this page, taken in turn from every domain and "
            "from what each method fixed or broke. They are for reading; the tables above count every item. "
            "The rest is in the records files of the run."
        )
    return join(
        element("h2", "Items"),
        element("p", words, class_="note"),
        element(
            "form",
            _field("Method", element("select", *methods, name="entry")),
            _field("Domain", element("select", *domains_, name="domain")),
            _field("Outcome", element("select", *results, name="outcome")),
            _field("Search", element("input", type="search", name="search", placeholder="id, subject or question")),
            element("button", "Reset", type="reset"),
            id="filters",
            aria_label="Filter items",
        ),
        element("p", id="item-status", class_="note", role="status"),
        element(
            "div",
            element("ul", id="item-list", aria_label="Matching items"),
            element("div", id="item-detail"),
            class_="browser",
        ),
        element("noscript", element("p", "The item browser needs JavaScript.")),
    )


def _field(label: str, control: Html) -> Html:
    return element("label", label, control)
