"""Tables of results as data, and their Markdown, CSV, JSON and terminal forms.

A table keeps exact values; rounding happens only where a person reads. Fractions stay 0-1 in CSV and JSON and become
per cent in Markdown and in the terminal.

Non-goals: computing accuracies or their errors (`evaluation/`), HTML (`report.py`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from select_to_think.analysis.runs import ALL, BASELINE, Run
from select_to_think.evaluation.results import ResultRow

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Kind = Literal["text", "count", "number", "percent", "points", "p"]
NOTHING = "–"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column; `help` says what the value is.

    `error_key` names the standard error shown behind the value, `high_key` the end of the interval that starts there.
    """

    key: str
    title: str
    kind: Kind
    help: str = ""
    error_key: str | None = None
    high_key: str | None = None

    def show(self, row: Row) -> str:
        """The value as a person reads it."""
        value = row.get(self.key)
        shown = show(value, self.kind)
        if self.high_key and value is not None:
            return f"{shown} to {show(row[self.high_key], self.kind)}"
        error = row.get(self.error_key) if self.error_key else None
        if value is None or error is None:
            return shown
        if self.kind == "percent":
            return f"{100 * value:.1f} ± {100 * error:.1f} %"
        return f"{shown} ± {show(error, self.kind)}"


@dataclass(frozen=True)
class Table:
    """Columns for people; rows that may hold more fields than the columns show."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def filled(self) -> Table:
        """Without the columns that have no value in any row."""
        kept = tuple(column for column in self.columns if any(row.get(column.key) is not None for row in self.rows))
        return Table(self.title, kept, self.rows)


def show(value: Any, kind: Kind) -> str:
    """One value in the words of its kind; a dash where there is none."""
    if value is None:
        return NOTHING
    if kind == "text":
        return str(value)
    if kind == "count":
        return f"{value:,.0f}"
    if kind == "percent":
        return f"{100 * value:.1f} %"
    if kind == "points":
        return f"{100 * value:+.1f}".replace("-", "−")
    if kind == "p":
        return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.01 or value == 0 else 4
    return f"{value:,.{digits}f}".removesuffix(".00")


RUN = Column("run", "Run", "text", "Folder of the run.")
METHOD = Column("method", "Method", "text", "Decoding method.")
DOMAIN = Column("domain", "Domain", "text", "Kind of problem; “all” pools every item.")
N = Column("n", "n", "count", "Items answered and graded.")
ACCURACY = Column(
    "accuracy", "Accuracy", "percent", "Share of right answers ± its standard error over the items.", "stderr"
)
RESULT_COLUMNS = (
    RUN,
    METHOD,
    DOMAIN,
    ACCURACY,
    Column("trigger_rate", "Triggered", "percent", "Generated tokens at which the trigger fired."),
    Column("flip_rate", "Flips", "percent", "Triggered steps whose choice is not the small model's greedy token."),
    Column("hit_at_8", "Hit@8", "percent", "Triggered steps whose LLM top-1 lies in the small model's top 8."),
    Column("llm_share", "LLM share", "percent", "Tokens of the answers that the LLM wrote or chose."),
    Column("llm_processed_per_answer", "LLM tokens read", "number", "Tokens fed through the LLM, per answer."),
    Column("llm_forwards_per_answer", "LLM forwards", "number", "Forward passes of the LLM, per answer."),
    Column(
        "tokens_per_second", "Tokens/s", "number", "Tokens of the answers per second of wall clock, prefill included."
    ),
    Column(
        "seconds_per_answer",
        "s/answer",
        "number",
        "Wall clock per answer, prefill included, at the batch size of the run.",
    ),
    N,
    Column("cut_off", "Cut off", "count", "Answers that ended at the token limit."),
)
HIT_KS = (1, 2, 4, 8, 16, 32)


def results_table(runs: Sequence[Run], *, domain: str | None = ALL) -> Table:
    """Result rows with the costs per answer beside them.

    `domain`: "all" for the rows over all domains, a domain's name for its rows, None for every row. The run's name and
    the domain are columns only if there are several.
    """
    rows = [with_costs(row, run) for run in runs for row in run.rows if domain in (None, row.domain)]
    table = Table("Results", RESULT_COLUMNS, tuple(rows))
    single_domain = len({row["domain"] for row in rows}) <= 1
    hidden = ({"run"} if len(runs) == 1 else set()) | ({"domain"} if single_domain else set())
    return Table(table.title, tuple(c for c in table.columns if c.key not in hidden), table.rows).filled()


def with_costs(row: ResultRow, run: Run) -> dict[str, Any]:
    """The row, its run's name, and what one answer cost: totals divided by `n`, the LLM's share of the tokens."""
    records = list(run.records_of(row.method, row.domain))
    return {
        "run": run.name,
        **asdict(row),
        "seconds_per_answer": row.seconds / row.n,
        "tokens_per_answer": row.tokens / row.n,
        "llm_generated_per_answer": row.llm_tokens_generated / row.n,
        "llm_processed_per_answer": row.llm_tokens_processed / row.n,
        "llm_forwards_per_answer": row.llm_forwards / row.n,
        "llm_share": row.llm_tokens_generated / row.tokens if row.tokens else None,
        "cut_off": sum(record.finish_reason == "length" for record in records) if records else None,
    }


def domain_table(run: Run) -> Table:
    """Accuracy of each method (rows) in each domain (columns `accuracy:DOMAIN`, `stderr:DOMAIN`)."""
    rows: dict[str, dict[str, Any]] = {}
    for row in run.rows:
        line = rows.setdefault(row.method, {"run": run.name, "method": row.method})
        line |= {f"accuracy:{row.domain}": row.accuracy, f"stderr:{row.domain}": row.stderr}
    names = [*run.domains, *([ALL] if any(row.domain == ALL for row in run.rows) else [])]
    columns = [Column(f"accuracy:{name}", name, "percent", error_key=f"stderr:{name}") for name in names]
    return Table(f"Accuracy by domain, {run.name}", (METHOD, *columns), tuple(rows.values()))


def paired_table(run: Run, domains: Sequence[str] = (ALL,)) -> Table:
    """Each method against the baseline over the items of a domain that both answered, by `paired_difference`.

    Rows hold `difference`, `low`, `high` (0-1), `wins`, `losses`, `n`, `mcnemar_p`; there are none without the records
    of the baseline.
    """
    from select_to_think.evaluation.statistics import paired_difference

    rows = []
    for domain in domains:
        before = {record.id: record.right for record in run.records_of(BASELINE, domain)}
        for method in run.methods:
            after = {record.id: record.right for record in run.records_of(method, domain)}
            both = [item_id for item_id in before if item_id in after]
            if method != BASELINE and both:
                found = paired_difference([after[item] for item in both], [before[item] for item in both])
                forwards = sum(record.counts.llm_forwards for record in run.records_of(method, domain))
                line = {"run": run.name, "method": method, "domain": domain, "llm_forwards": forwards}
                rows.append({**line, **asdict(found)})
    columns = (
        METHOD,
        DOMAIN if len(domains) > 1 else None,
        Column("difference", f"Points against {BASELINE}", "points", "Difference of the accuracies, in points."),
        Column("low", "95 % interval", "points", "Bootstrap over items, in points.", high_key="high"),
        Column("wins", "Fixed", "count", f"Wrong under {BASELINE}, right under this method."),
        Column("losses", "Broken", "count", f"Right under {BASELINE}, wrong under this method."),
        Column("mcnemar_p", "p", "p", "McNemar's exact two-sided test of fixed against broken."),
        Column("n", "n", "count", "Items that both answered."),
    )
    return Table(f"Against {BASELINE}, {run.name}", tuple(c for c in columns if c is not None), tuple(rows))


def hit_table(runs: Sequence[Run]) -> Table:
    """Hit@k of each run and domain (`hit_at:K`, `stderr_at:K`); runs without a measurement have no rows."""
    rows = []
    for run in runs:
        for row in run.measure["results"] if run.measure else ():
            line = {"run": run.name, **row}
            for name in ("hit_at", "stderr_at"):
                line |= {f"{name}:{k}": row.get(name, {}).get(str(k)) for k in HIT_KS}
            rows.append(line)
    columns = [
        RUN if len(runs) > 1 else None,
        DOMAIN,
        Column("n_items", "Items", "count", "Answers measured."),
        Column("n_steps", "Steps", "count", "The steps with the highest KL, over which the fractions are taken."),
        *(Column(f"hit_at:{k}", f"Hit@{k}", "percent", error_key=f"stderr_at:{k}") for k in HIT_KS),
        Column(
            "flip_rate", "Flips", "percent", "Steps at which the LLM prefers another candidate to the greedy token."
        ),
        Column(
            "agreement", "Same top-1", "percent", "Share of ALL steps at which both models have the same best token."
        ),
    ]
    return Table("Local sufficiency", tuple(c for c in columns if c is not None), tuple(rows)).filled()


def to_markdown(table: Table) -> str:
    """A pipe table with rounded values; text is escaped so that it cannot leave its cell."""
    lines = [[column.title for column in table.columns]]
    lines.append([":--" if column.kind == "text" else "--:" for column in table.columns])
    lines += [[column.show(row) for column in table.columns] for row in table.rows]
    return "".join("| " + " | ".join(_one_line(cell) for cell in line) + " |\n" for line in lines)


def _one_line(cell: str) -> str:
    return " ".join(cell.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def to_csv(table: Table) -> str:
    """Exact values, errors in columns of their own, header of field names, "\\n" line ends."""
    keys = _keys(table)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(keys)
    writer.writerows([[row.get(key) for key in keys] for row in table.rows])
    return out.getvalue()


def to_json(table: Table) -> str:
    """Exact values as `{"title", "rows": [{field: value}]}`, one line."""
    rows = [{key: row.get(key) for key in _keys(table)} for row in table.rows]
    return json.dumps({"title": table.title, "rows": rows}, ensure_ascii=False, allow_nan=False)


def _keys(table: Table) -> list[str]:
    return [key for column in table.columns for key in (column.key, column.error_key, column.high_key) if key]


def to_rich(table: Table) -> RichTable:
    """The table for a terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=table.title)
    for column in table.columns:
        shown.add_column(column.title, justify="left" if column.kind == "text" else "right")
    for row in table.rows:
        shown.add_row(*(Text(column.show(row)) for column in table.columns))
    return shown


FORMATS: Mapping[str, Callable[[Table], str]] = {"md": to_markdown, "csv": to_csv, "json": to_json}
