"""What `s2t advise` found, as tables, a chart and a section of the report.

Non-goals: measuring and recommending (`advice/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from select_to_think.analysis import charts
from select_to_think.analysis.charts import Curve
from select_to_think.analysis.html_tables import difference_bar, helps, html_table, legend, run_heading
from select_to_think.analysis.markup import Html, element, join
from select_to_think.analysis.runs import Run
from select_to_think.analysis.svg import Scale
from select_to_think.analysis.tables import RESULT_COLUMNS, Column, Table, costs_per_answer

if TYPE_CHECKING:
    from select_to_think.advice.document import Advice, Way

COSTS = ("llm_share", "llm_processed_per_answer", "llm_forwards_per_answer", "slm_processed_per_answer",
         "flops_per_answer", "money_per_1000", "seconds_per_answer")  # fmt: skip
WAY_COLUMNS = (
    Column("way", "Way", "text", "How questions are answered; @: at this trigger budget."),
    Column("kind", "Tried by", "text", "Probe: trained on one half of the questions, measured on the other."),
    Column("accuracy", "Accuracy", "percent", "Share of right answers ± its standard error.", "stderr"),
    Column("difference", "Gain", "points", "Accuracy minus that of greedy, on the same items, in points."),
    Column("low", "95 % interval", "points", "Of the gain, by bootstrap over items.", high_key="high"),
    Column("at_most", "Ceiling", "points", "Gain of the way that it cannot be expected to pass, in points."),
    Column("trained_on", "Trained on", "count", "Questions."),
    *(column for column in RESULT_COLUMNS if column.key in COSTS),
)
CLASS_WORDS = (
    ("habit", "Habit", "Foreseen from other questions: a linear head on the SLM's state gives it at least one half."),
    ("sure", "Sure and wrong", "Not foreseen, and the SLM gives its own token at least 90 %."),
    ("unsure", "Unsure", "Not foreseen, and the SLM is less sure than that."),
    ("not_candidate", "Not a candidate", "The LLM's token is not among the SLM's candidates."),
)


def way_row(advice: Advice, way: Way) -> dict[str, Any]:
    """A way with its gain and what an answer costs."""
    ceiling, gain = advice.way(way.ceiling), way.gain
    return {
        **asdict(way.row),
        **costs_per_answer(way.row),
        "way": way.name,
        "kind": way.kind,
        "trained_on": way.trained_on,
        "llm_share": way.row.llm_tokens_share,
        "difference": gain.difference,
        "low": gain.low,
        "high": gain.high,
        "at_most": None if ceiling is None else ceiling.gain.difference,
    }


def ways_table(advice: Advice) -> Table:
    """The ways, what each gains and costs."""
    return Table("Ways to answer", WAY_COLUMNS, tuple(way_row(advice, way) for way in advice.ways)).filled()


def divergence_table(advice: Advice) -> Table:
    """The divergences by domain, their classes as shares."""
    rows = []
    for entry in advice.divergences:
        row = asdict(entry)
        for key, *_ in CLASS_WORDS:
            row[key] = row[key] / entry.n_divergences if entry.n_divergences else None
        rows.append(row)
    columns = (
        Column("domain", "Domain", "text", "Kind of problem; “all” pools every item."),
        Column("n_steps", "Steps", "count", "Tokens of the greedy answers."),
        Column("n_divergences", "Divergences", "count", "Steps at which the LLM finds another token twice as likely."),
        *(Column(key, title, "percent", help) for key, title, help in CLASS_WORDS),
    )
    return Table("Divergences of greedy answers", columns, tuple(rows))


def recall_table(advice: Advice) -> Table:
    """Which share of the divergences each trigger sees."""
    columns = (
        Column("trigger", "Trigger", "text", "learned: a head fitted to the other half of the questions."),
        Column("budget", "Budget", "percent", "Share of all steps that it may mark."),
        Column("all", "All", "percent", "Share of the divergences among the marked steps."),
        *(Column(key, title, "percent", help) for key, title, help in CLASS_WORDS),
    )
    return Table("What a trigger sees of them", columns, tuple(map(asdict, advice.recall)))


def headline(advice: Advice) -> str:
    """The recommendation in a sentence or two."""
    from select_to_think.advice.recommend import interval

    found = advice.recommendation
    without, with_llm = advice.way(found.train), advice.way(found.with_llm)
    words = [
        f"Without an LLM at inference: train {without.name} ({interval(without.gain)} as a probe)."
        if without is not None
        else "Without an LLM at inference: stay with greedy; nothing that was tried clearly gains."
        if advice.probes
        else "Without an LLM at inference: nothing was tried."
    ]
    words.append(
        f"With one: {with_llm.name} ({interval(with_llm.gain)})."
        if with_llm is not None
        else "With one: no way clearly gains on these questions."
    )
    return " ".join(words)


def recall_chart(advice: Advice, width: int) -> Html:
    """The share of all divergences that each trigger sees, against its budget."""
    triggers = list(dict.fromkeys(row.trigger for row in advice.recall))
    curves = []
    for trigger in triggers:
        points = [
            (row.budget, row.all, 0.0, f"{trigger} at {100 * row.budget:g} %: {100 * row.all:.1f} % of the divergences")
            for row in advice.recall
            if row.trigger == trigger and row.all is not None
        ]
        curves.append(Curve(trigger, points))
    most = max(row.budget for row in advice.recall)
    x = Scale(0.0, 1.05 * most, charts.LEFT, width - 20, root=True)
    ticks = [(row.budget, f"{100 * row.budget:g} %") for row in advice.recall if row.trigger == triggers[0]]
    titles = ("Budget: share of the steps that are marked", "Recall of the triggers")
    return charts.curve_chart(curves, x, Scale(0.0, 1.0, *charts.span(width)), ticks, titles, width=width)


def section(runs: Sequence[Run]) -> Html | None:
    """The advice of every run that has some."""
    parts = [join(run_heading(run, runs), advice_of(run.advice)) for run in runs if run.advice is not None]
    return join(element("h2", "Advice"), *parts) if parts else None


def advice_of(advice: Advice) -> Html:
    """What to do, why, how sure that is, and what it rests on."""
    found, ways, divergences = advice.recommendation, ways_table(advice), divergence_table(advice)
    triggers = list(dict.fromkeys(row.trigger for row in advice.recall))
    half = advice.n_items // 2
    words = (
        f"{advice.n_items} questions in two halves: whatever a question is answered with was made from the other half. "
        f"A probe is a training on {half} questions; more should give more, up to about its ceiling, the gain of the "
        "way that it cannot be expected to pass. Intervals: 95 %, bootstrap over questions."
    )
    return join(
        element("p", element("strong", headline(advice))),
        element("ul", *(element("li", reason) for reason in advice.reasons)),
        element("h3", "How sure is that?"),
        element("ul", *(element("li", line) for line in found.uncertainty)),
        element("h3", ways.title),
        element("p", words, class_="note"),
        html_table(ways, {"low": partial(difference_bar, rows=ways.rows)}),
        helps(ways),
        element("h3", divergences.title),
        html_table(divergences),
        helps(divergences),
        element("h3", recall_table(advice).title),
        element("figure", legend(charts.curve_legend(triggers)), charts.both_widths(partial(recall_chart, advice))),
        element("details", element("summary", "By kind of divergence"), html_table(recall_table(advice))),
    )
