"""Each method of a run against the run's baseline, item by item.

Non-goals: two methods or two runs of one's own choice (`comparison.py`), the statistics (`evaluation/statistics.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from select_to_think.analysis.runs import ALL, Run, baseline_name
from select_to_think.analysis.tables import DOMAIN, METHOD, RESULT_COLUMNS, Column, Table, with_costs
from select_to_think.evaluation.results import ResultRow

if TYPE_CHECKING:
    from select_to_think.evaluation.statistics import PairedDifference


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
    """Each method against the baseline over the items of a domain that both answered, by `paired_difference`.

    Rows hold `difference`, `low`, `high` (0-1), `wins`, `losses`, `n`, `mcnemar_p`: those that the run wrote down, else
    those that its records give. There are none without the answers of the baseline.
    """
    found = [(row, row.paired or paired_records(run, row)) for d in domains for row in run.rows if row.domain == d]
    rows = tuple(
        {"run": run.name, "method": row.method, "domain": row.domain, "llm_forwards": row.llm_forwards}
        | asdict(difference)
        for row, difference in found
        if difference is not None
    )
    items = Column("n", "n", "count", "Items that both answered.")
    columns = (METHOD, *((DOMAIN,) if len(domains) > 1 else ()), *paired_columns(run.baseline), items)
    return Table(f"Against {run.baseline}, {run.name}", columns, rows)


def paired_records(run: Run, row: ResultRow) -> PairedDifference | None:
    """The row's method against the baseline, from the records; None for the baseline and without common items."""
    from select_to_think.evaluation.statistics import paired_difference

    before, after = (run.shares_right(method, row.domain) for method in (run.baseline, row.method))
    both = [item_id for item_id in before if item_id in after]
    if row.method == run.baseline or not both:
        return None
    return paired_difference([after[item] for item in both], [before[item] for item in both])


def full_table(runs: Sequence[Run]) -> Table:
    """Every row of every run, with its paired difference from the run's baseline: what a spreadsheet wants."""
    compared = {
        (line["run"], line["method"], line["domain"]): {k: v for k, v in line.items() if k not in ("n", "llm_forwards")}
        for run in runs
        for line in paired_table(run, (*run.domains, ALL)).rows
    }
    rows = [
        {**line, **compared.get((run.name, row.method, row.domain), {})}
        for run in runs
        for row in run.rows
        for line in [with_costs(row, run)]
    ]
    return Table("Results", (*RESULT_COLUMNS, *paired_columns(baseline_name(runs))), tuple(rows))
