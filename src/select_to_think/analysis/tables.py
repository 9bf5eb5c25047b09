"""Tables of results as data.

A table keeps exact values, fractions as 0-1; rounding happens only where a person reads.

Non-goals: computing accuracies or their errors (`evaluation/`), writing tables down (`formats.py`, `html_tables.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from select_to_think.analysis.runs import ALL, Run, baseline_name
from select_to_think.evaluation.results import KS, ResultRow
from select_to_think.evaluation.statistics import over_seeds

Kind = Literal["text", "count", "number", "si", "percent", "points", "p"]
NOTHING = "–"
Z95 = 1.96  # standard errors on each side of a 95 % interval

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
    if kind == "si":
        return with_prefix(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.01 or value == 0 else 4
    return f"{value:,.{digits}f}".removesuffix(".00")


def with_prefix(value: float) -> str:
    """A large number with three digits and a decimal prefix: 1.23 G."""
    power = 0
    while abs(value) >= 999.5 and power < len(PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {PREFIXES[power]}".rstrip()


PREFIXES = ("", "k", "M", "G", "T", "P", "E")
RUN = Column("run", "Run", "text", "Folder of the run.")
METHOD = Column("method", "Method", "text", "Decoding method.")
DOMAIN = Column("domain", "Domain", "text", "Kind of problem; “all” pools every item.")
N = Column("n", "n", "count", "Answers graded: items, times seeds.")
ACCURACY = Column(
    "accuracy",
    "Accuracy",
    "percent",
    "Share of right answers ± its standard error over the items, each of which counts with its mean over the seeds.",
    "stderr",
)
RESULT_COLUMNS = (
    RUN,
    METHOD,
    DOMAIN,
    ACCURACY,
    Column(
        "accuracy_low",
        "95 % interval",
        "percent",
        "Accuracy ± 1.96 standard errors; too narrow for few items near 0 or 100 %.",
        high_key="accuracy_high",
    ),
    N,
    Column("seeds", "Seeds", "count", "Runs that differ by seed."),
    Column("cut_off", "Cut off", "count", "Answers that ended at the token limit."),
    Column("prompts_too_long", "Too long", "count", "Prompts that do not fit the context; counted as wrong."),
    Column("trigger_rate", "Triggered", "percent", "Generated tokens at which the trigger fired."),
    Column("flip_rate", "Flips", "percent", "Triggered steps whose choice is not the small model's greedy token."),
    Column("hit_at_8", "Hit@8", "percent", "Triggered steps whose LLM top-1 lies in the small model's top 8."),
    Column("llm_share", "LLM share", "percent", "Tokens of the answers that the LLM wrote or chose."),
    Column("consultations_per_answer", "Consulted", "number", "Words at which the mentor was asked, per answer."),
    Column("mentor_choice_rate", "Mentor chosen", "percent", "Disputes that the verifier gave to the mentor."),
    Column("llm_processed_per_answer", "LLM tokens read", "number", "Tokens fed through the LLM, per answer."),
    Column("llm_forwards_per_answer", "LLM forwards", "number", "Forward passes of the LLM, per answer."),
    Column("slm_processed_per_answer", "SLM tokens read", "number", "Tokens fed through the SLM, per answer."),
    Column("flops_per_answer", "FLOPs", "si", "Operations of both models per answer, estimated from their shapes."),
    Column("money_per_1000", "Money / 1,000", "number", "At the prices of the run, per 1,000 answers."),
    Column(
        "tokens_per_second", "Tokens/s", "number", "Tokens of the answers per second of wall clock, prefill included."
    ),
    Column(
        "seconds_per_answer",
        "s/answer",
        "number",
        "Wall clock per answer, prefill included, at the batch size of the run.",
    ),
)


def results_table(runs: Sequence[Run], *, domain: str | None = ALL) -> Table:
    """Result rows with the costs per answer beside them.

    `domain`: "all" for the rows over all domains, a domain's name for its rows, None for every row. The run's name and
    the domain are columns only if there are several.
    """
    rows = tuple(with_costs(row, run) for run in runs for row in run.rows if domain in (None, row.domain))
    telling = {
        "run": len(runs) > 1,
        "domain": len({row["domain"] for row in rows}) > 1,
        "seeds": any(row["seeds"] > 1 for row in rows),
        "prompts_too_long": any(row["prompts_too_long"] for row in rows),
    }
    return Table("Results", tuple(c for c in RESULT_COLUMNS if telling.get(c.key, True)), rows).filled()


def with_costs(row: ResultRow, run: Run) -> dict[str, Any]:
    """The row, its run's name, the interval of its accuracy, what one answer cost, the difference from the baseline."""
    margin = None if row.stderr is None else Z95 * row.stderr
    return {
        "run": run.name,
        **asdict(row),
        "accuracy_low": None if margin is None else max(0.0, row.accuracy - margin),
        "accuracy_high": None if margin is None else min(1.0, row.accuracy + margin),
        **costs_per_answer(row),
        "llm_share": row.llm_tokens_share,
        "consultations_per_answer": None if row.consultations is None else row.consultations / row.n,
        "mentor_choice_rate": (row.mentor_choices or 0) / row.disagreements if row.disagreements else None,
        "cut_off": row.truncated,
        **({} if row.paired is None else asdict(row.paired) | {"n": row.n}),
    }


def costs_per_answer(row: ResultRow) -> dict[str, float | None]:
    """What one answer cost; totals divided by `n`."""
    return {
        "seconds_per_answer": row.seconds / row.n,
        "llm_generated_per_answer": row.llm_tokens_generated / row.n,
        "llm_processed_per_answer": row.llm_tokens_processed / row.n,
        "llm_forwards_per_answer": row.llm_forwards / row.n,
        "slm_processed_per_answer": None if row.slm_tokens_processed is None else row.slm_tokens_processed / row.n,
        "flops_per_answer": None if row.flops is None else row.flops / row.n,
        "money_per_1000": None if row.money is None else 1000 * row.money / row.n,
    }


def full_table(runs: Sequence[Run]) -> Table:
    """Every row of every run, with its paired difference from the run's baseline: what a spreadsheet wants."""
    return Table(
        "Results", (*RESULT_COLUMNS, *paired_columns(baseline_name(runs))), results_table(runs, domain=None).rows
    )


def paired_columns(baseline: str) -> tuple[Column, ...]:
    """The columns of a paired comparison with `baseline`."""
    return (
        Column("difference", f"Points against {baseline}", "points", "Difference of the accuracies, in points."),
        Column("low", "95 % interval", "points", "Bootstrap over items, in points.", high_key="high"),
        Column("wins", "Fixed", "count", f"Wrong under {baseline}, right under this method."),
        Column("losses", "Broken", "count", f"Right under {baseline}, wrong under this method."),
        Column("mcnemar_p", "p", "p", "McNemar's exact two-sided test of fixed against broken."),
    )


def paired_table(run: Run, domains: Sequence[str] = (ALL,)) -> Table:
    """Each method against the run's baseline on the same items of a domain; no rows without the baseline's answers."""
    rows = [
        {"method": row.method, "domain": row.domain, "llm_forwards": row.llm_forwards, **asdict(row.paired)}
        for domain in domains
        for row in run.rows
        if row.domain == domain and row.paired is not None
    ]
    items = Column("n", "n", "count", "Items that both answered.")
    columns = (METHOD, *((DOMAIN,) if len(domains) > 1 else ()), *paired_columns(run.baseline), items)
    return Table(f"Against {run.baseline}, {run.name}", columns, tuple(rows))


def domain_table(run: Run) -> Table:
    """Accuracy of each method (rows) in each domain (columns `accuracy:DOMAIN`, `stderr:DOMAIN`)."""
    rows: dict[str, dict[str, Any]] = {}
    for row in run.rows:
        line = rows.setdefault(row.method, {"run": run.name, "method": row.method})
        line |= {f"accuracy:{row.domain}": row.accuracy, f"stderr:{row.domain}": row.stderr}
    names = [*run.domains, *([ALL] if any(row.domain == ALL for row in run.rows) else [])]
    columns = [Column(f"accuracy:{name}", name, "percent", error_key=f"stderr:{name}") for name in names]
    return Table(f"Accuracy by domain, {run.name}", (METHOD, *columns), tuple(rows.values()))


def subject_table(run: Run) -> Table:
    """Accuracy of each method (columns `accuracy:METHOD`, `stderr:METHOD`) in each subject of each domain.

    Subjects are parts of a benchmark; answers without one are left out, so there may be no rows. `n` counts items; the
    errors are over items, as in the result rows.
    """
    marks: dict[tuple[str, str], dict[str, dict[int, list[bool]]]] = {}
    for method in run.methods:
        for seed, records in run.records.get(method, {}).items():
            for record in (record for record in records.values() if record.subject is not None):
                by_method = marks.setdefault((record.domain, str(record.subject)), {})
                by_method.setdefault(method, {}).setdefault(seed, []).append(record.right)
    rows = []
    for (domain, subject), by_method in sorted(marks.items()):
        line: dict[str, Any] = {"run": run.name, "domain": domain, "subject": subject}
        line["n"] = max(len(right) for by_seed in by_method.values() for right in by_seed.values())
        for method, by_seed in by_method.items():
            line[f"accuracy:{method}"], line[f"stderr:{method}"] = over_seeds(list(by_seed.values()))
        rows.append(line)
    columns = [Column(f"accuracy:{name}", name, "percent", error_key=f"stderr:{name}") for name in run.methods]
    about = (Column("subject", "Subject", "text"), DOMAIN, Column("n", "n", "count"))
    return Table(f"Accuracy by subject, {run.name}", (*about, *columns), tuple(rows)).filled()


def hit_table(runs: Sequence[Run]) -> Table:
    """Hit@k of each run and domain (`hit_at:K`, `stderr_at:K`); runs without a measurement have no rows."""
    rows = []
    for run in runs:
        for row in run.measure.rows if run.measure else ():
            line = {"run": run.name, **asdict(row)}
            for name in ("hit_at", "stderr_at"):
                line |= {f"{name}:{k}": line[name].get(str(k)) for k in KS}
            rows.append(line)
    columns = [
        RUN if len(runs) > 1 else None,
        DOMAIN,
        Column("n_items", "Items", "count", "Answers measured."),
        Column("n_steps", "Steps", "count", "The steps with the highest KL, over which the fractions are taken."),
        *(Column(f"hit_at:{k}", f"Hit@{k}", "percent", error_key=f"stderr_at:{k}") for k in KS),
        Column(
            "flip_rate", "Flips", "percent", "Steps at which the LLM prefers another candidate to the greedy token."
        ),
        Column(
            "agreement", "Same top-1", "percent", "Share of ALL steps at which both models have the same best token."
        ),
    ]
    return Table("Local sufficiency", tuple(c for c in columns if c is not None), tuple(rows)).filled()
