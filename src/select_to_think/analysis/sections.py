"""The sections of the report, each from the runs to markup.

Non-goals: the page around them (`report.py`), how charts are drawn (`charts.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from select_to_think.analysis import charts
from select_to_think.analysis.formats import to_csv
from select_to_think.analysis.html_tables import (
    accuracy_bar,
    difference_bar,
    download,
    helps,
    html_table,
    legend,
    run_heading,
)
from select_to_think.analysis.markup import Html, element, join
from select_to_think.analysis.runs import ALL, Run, baseline_name
from select_to_think.analysis.tables import (
    Row,
    domain_table,
    full_table,
    hit_table,
    paired_table,
    results_table,
    show,
    subject_table,
)

TILES = (
    ("greedy", "the small model alone"),
    ("s2t-local", "the small model, its scorer selects"),
    ("s2t", "the LLM selects"),
    ("llm", "the LLM alone"),
)

MAX_SUBJECTS = 20  # more are folded


def title(runs: Sequence[Run]) -> str:
    """The page's title."""
    return "Select to Think: " + ", ".join(run.name for run in runs)


def lead(runs: Sequence[Run]) -> str:
    """What was run on what, in a sentence."""
    names = list(dict.fromkeys(method for run in runs for method in run.methods))
    counts = {row.n // row.seeds for run in runs for row in run.rows if row.domain == ALL} or {0}
    domains = runs[0].domains if len({run.domains for run in runs}) == 1 else ()
    size = f"{' to '.join(f'{count:,}' for count in sorted({min(counts), max(counts)}))} items"
    where = f" in {len(domains)} domains ({', '.join(domains)})" if 1 < len(domains) <= 6 else ""
    return f"{len(names)} decoding methods on {size}{where}, graded one by one."


def results(runs: Sequence[Run]) -> Html:
    """Key figures, the headline table with its intervals, what the columns mean, and every row."""
    table, full = results_table(runs), results_table(runs, domain=None)
    every = element("details", element("summary", "Every row, by domain"), html_table(full)) if runs else None
    return join(
        element("h2", "Results"),
        tiles(runs[0], results_table(runs[:1]).rows),
        *(element("p", note, class_="caution") for run in runs for note in cautions(run)),
        element(
            "p",
            "The bar shows the accuracy and its 95 % interval (1.96 standard errors) on an axis from 0 to 100 %. ",
            element("span", class_="dot", aria_hidden="true"),
            "no LLM at inference, ",
            element("span", class_="dot with-llm", aria_hidden="true"),
            "LLM used.",
            class_="note",
        ),
        html_table(table, {"accuracy": accuracy_bar}),
        helps(table),
        every,
        element(
            "p", download(to_csv(full_table(runs)), "results.csv", "Download every row as CSV"), class_="downloads"
        ),
    )


def tiles(run: Run, rows: Sequence[Row]) -> Html | None:
    """The first run's main methods, side by side."""
    by_method = {str(row["method"]): row for row in rows}
    base = by_method.get(run.baseline)
    shown = []
    for method, words in TILES:
        row = by_method.get(method)
        if row is None:
            continue
        details = [words]
        if base and method != run.baseline and base["accuracy"] > 0:
            details.append(f"{row['accuracy'] / base['accuracy']:.2f}× {run.baseline}")
        read = row.get("llm_processed_per_answer")
        details.append(f"{show(read, 'number')} LLM tokens per answer" if read else "no LLM")
        kind = "ours" if method == "s2t-local" else "with-llm" if charts.uses_llm(row) else ""
        shown.append(
            element(
                "li",
                element("span", method, class_="name"),
                element("span", f"{100 * row['accuracy']:.1f} %", class_="big"),
                *(element("span", line, class_="detail") for line in details),
                class_=f"tile {kind}",
            )
        )
    return element("ul", *shown, class_="tiles", aria_label=f"Accuracy in {run.name}") if shown else None


def cautions(run: Run) -> list[str]:
    """What a reader must know beside the numbers: remarks of the evaluation, uncommitted code."""
    notes = [str(note) for note in run.provenance.get("notes", [])]
    if run.provenance.get("dirty"):
        notes.append(f"{run.name}: the code had uncommitted changes when this was run.")
    return notes


def differences(runs: Sequence[Run]) -> Html | None:
    """Paired differences to the baseline; nothing where no run has the baseline and another method."""
    parts = []
    for run in runs:
        table = paired_table(run)
        if not table.rows:
            continue
        bars = {"low": partial(difference_bar, rows=table.rows)}
        parts += [run_heading(run, runs), html_table(table, bars)]
        if len(run.domains) > 1:
            by_domain = paired_table(run, run.domains)
            parts.append(element("details", element("summary", "By domain"), html_table(by_domain)))
    if not parts:
        return None
    name = baseline_name(runs)
    words = (
        "On the same items: the difference of the accuracies in points with its 95 % interval (bootstrap over items), "
        f"how many items each method fixed (wrong under {name}, right now) and broke (the reverse), and McNemar's "
        "exact two-sided p."
    )
    return join(element("h2", f"Against {name}"), element("p", words, class_="note"), *parts)


def domains(runs: Sequence[Run]) -> Html | None:
    """Accuracy of every method in every domain and in every subject; nothing if no run has several of either."""
    parts = []
    for run in runs:
        by_domain, by_subject = domain_table(run), subject_table(run)
        if len(run.domains) > 1:
            parts.append(join(run_heading(run, runs), html_table(by_domain)))
        if len(by_subject.rows) > 1:
            shown = html_table(by_subject)
            if len(by_subject.rows) > MAX_SUBJECTS:
                shown = element("details", element("summary", f"{len(by_subject.rows)} subjects"), shown)
            parts.append(join(element("h3", by_subject.title), shown))
    if not parts:
        return None
    return join(element("h2", "By domain"), element("p", "Accuracy ± standard error.", class_="note"), *parts)


def cost(runs: Sequence[Run]) -> Html:
    """One chart for each meaning of cost that the runs recorded, chosen by radio buttons."""
    rows = results_table(runs).rows
    axes = [axis for axis in charts.COST_AXES if any(row.get(axis.key) for row in rows)]
    inputs, figures = [], []
    for index, axis in enumerate(axes):
        box = f"axis-{index}"
        inputs += [
            element("input", type="radio", name="axis", id=box, checked=index == 0),
            element("label", axis.title, for_=box),
        ]
        front = ", ".join(charts.name(row, rows) for row in charts.pareto_front(rows, axis))
        drawn = charts.both_widths(partial(charts.cost_chart, rows, axis))
        figures.append(element("figure", drawn, element("figcaption", f"On the front, by rising cost: {front}.")))
    return join(
        element("h2", "Accuracy against cost"),
        element(
            "p",
            "The dashed line is the Pareto front: no other method is at least as accurate for at most that cost. "
            "Methods on it are filled. Intervals: 95 %.",
        ),
        element("div", *inputs, *figures, class_="axes", role="group", aria_label="Cost"),
        legend(charts.cost_legend()),
    )


def hit(runs: Sequence[Run]) -> Html | None:
    """Hit@k curves, one figure for each run that has a measurement."""
    parts = []
    for run in runs:
        table = hit_table([run])
        if not table.rows:
            continue
        drawn = charts.drawn_rows(table)
        curves = charts.curve_legend([str(row["domain"]) for row in drawn])
        left_out = len(table.rows) - len(drawn)
        caption = f"{left_out} domains with fewer steps stand only in the table." if left_out else None
        figure = element(
            "figure",
            legend(curves),
            charts.both_widths(partial(charts.hit_chart, table)),
            element("figcaption", caption) if caption else None,
        )
        parts.append(join(run_heading(run, runs), figure, html_table(table)))
    if not parts:
        return None
    words = (
        "Of the steps where the two models differ most (by KL divergence): how often is the LLM's best token among the "
        "small model's best k? High at k = 8 and low at k = 1 means that selecting is enough. Intervals: 95 %."
    )
    return join(element("h2", "Hit@k: is the LLM's choice already there?"), element("p", words), *parts)


def provenance(runs: Sequence[Run]) -> Html:
    """How each run came about, as it was recorded."""
    parts = [join(element("h3", run.name), _facts(run.provenance)) for run in runs]
    measures = [
        join(element("h3", f"{run.name}: measurement"), _facts(run.measure.provenance))
        for run in runs
        if run.measure and run.measure.provenance
    ]
    return join(element("h2", "Provenance"), *parts, *measures)


def _facts(value: Any) -> Html:
    if isinstance(value, Mapping) and value:
        pairs = [join(element("dt", key), element("dd", _facts(inner))) for key, inner in value.items()]
        return element("dl", *pairs, class_="facts")
    if isinstance(value, list | tuple) and value and all(isinstance(inner, Mapping) for inner in value):
        return join(*(_facts(inner) for inner in value))
    if isinstance(value, list | tuple):
        return join(", ".join(str(inner) for inner in value) or "none")
    words = {True: "yes", False: "no", None: "none"}
    return join(words[value] if value is None or isinstance(value, bool) else str(value))
