"""Tables of results as HTML.

Non-goals: what the tables hold (`tables.py`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from select_to_think.analysis import charts
from select_to_think.analysis.markup import Html, element, join
from select_to_think.analysis.tables import Column, Row, Table

NO_BARS: Mapping[str, Callable[[Row], Html]] = {}


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


def download(content: str, filename: str, label: str) -> Html:
    """A link that saves `content` as a file, without a network."""
    encoded = base64.b64encode(content.encode()).decode()
    return element("a", label, download=filename, href=f"data:text/csv;charset=utf-8;base64,{encoded}")
