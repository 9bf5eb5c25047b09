"""Tables of results as HTML, with small bars in their cells.

Non-goals: what the tables hold (`tables.py`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from select_to_think.analysis import charts
from select_to_think.analysis.markup import Html, element, join
from select_to_think.analysis.runs import Run
from select_to_think.analysis.svg import Scale, line, mark
from select_to_think.analysis.tables import Column, Row, Table

NO_BARS: Mapping[str, Callable[[Row], Html]] = {}


def run_heading(run: Run, runs: Sequence[Run]) -> Html | None:
    """The name of a run that is not the only one."""
    return element("h3", run.name) if len(runs) > 1 else None


def html_table(table: Table, bars: Mapping[str, Callable[[Row], Html]] = NO_BARS) -> Html:
    """The table, scrollable by itself; each value's cell carries the exact number in `data-value`.

    `bars`: small charts by column key, drawn before the value.
    """
    lead_key = "method" if any(column.key == "method" for column in table.columns) else table.columns[0].key
    columns = sorted(table.columns, key=lambda column: column.key != lead_key)
    head = element(
        "tr", *(element("th", c.title, scope="col", class_=_align(c), title=c.help or None) for c in columns)
    )
    body = [element("tr", *(_cell(column, row, lead_key, bars) for column in columns)) for row in table.rows]
    content = element("table", element("thead", head), element("tbody", *body))
    return element("div", content, class_="scroll", tabindex=0, role="region", aria_label=table.title)


def _cell(column: Column, row: Row, lead_key: str, bars: Mapping[str, Callable[[Row], Html]]) -> Html:
    shown: Any = column.show(row).replace(" ", "\u00a0")
    if column.key == lead_key:
        kind = "dot with-llm" if charts.uses_llm(row) else "dot"
        dot = element("span", class_=kind, aria_hidden="true") if "llm_forwards" in row else None
        return element("th", dot, shown, scope="row")
    if column.key in bars:
        shown = join(bars[column.key](row), element("span", shown))
    value = row.get(column.key)
    exact = None if value is None or column.kind == "text" else repr(value)
    return element("td", shown, class_=_align(column), data_key=column.key, data_value=exact)


def accuracy_bar(row: Row) -> Html:
    """A small 0-100 % axis with the accuracy as a dot in its 95 % interval; the numbers stand beside it."""
    accuracy, margin = row["accuracy"], charts.margin95(row)
    x = Scale(0.0, 1.0, 4, 136)
    return _bar(x, (0.0, 0.5, 1.0), max(0.0, accuracy - margin), accuracy, min(1.0, accuracy + margin), row)


def difference_bar(row: Row, rows: Sequence[Row]) -> Html:
    """A small axis shared by `rows`, with a tick at zero and the difference as a dot in its interval."""
    x = Scale(min(0.0, *(row["low"] for row in rows)), max(0.01, *(row["high"] for row in rows)), 4, 136)
    return _bar(x, (0.0,), row["low"], row["difference"], row["high"], row)


def _bar(x: Scale, ticks: Sequence[float], low: float, value: float, high: float, row: Row) -> Html:
    drawn = join(
        line(4, 9, 136, 9, "grid"),
        *(line(x(tick), 4, x(tick), 14, "grid") for tick in ticks),
        line(x(low), 9, x(high), 9, "error wide"),
        mark(x(value), 9, charts.shape_of(charts.uses_llm(row)), "mark", 2.5),
    )
    kind = charts.tone_of(charts.uses_llm(row))
    return element("svg", drawn, class_=f"bar on-front {kind}", viewBox="0 0 140 18", aria_hidden="true")


def _align(column: Column) -> str | None:
    return None if column.kind == "text" else "num"


def helps(table: Table) -> Html:
    """What each column means."""
    entries = [
        element("div", element("dt", column.title), " ", element("dd", column.help))
        for column in table.columns
        if column.help
    ]
    return element("details", element("summary", "What the columns mean"), element("dl", *entries, class_="help"))


def legend(entries: Sequence[tuple[Html, str]]) -> Html:
    """The marks of a chart, and what they mean."""
    return element("ul", *(element("li", mark, words) for mark, words in entries), class_="legend")


def download(content: str, filename: str, label: str) -> Html:
    """A link that saves `content` as a file, without a network."""
    encoded = base64.b64encode(content.encode()).decode()
    return element("a", label, download=filename, href=f"data:text/csv;charset=utf-8;base64,{encoded}")
