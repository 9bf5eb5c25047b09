"""Tables of results on a terminal: what does not fit is left out whole, column by column, and said so.

Non-goals: what the columns are (`analysis/tables.py`).
"""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from select_to_think.analysis.formats import to_rich
from select_to_think.analysis.tables import Column, Table

PADDING = 3  # columns of the terminal between two cells
# What a narrow terminal can do without, the least needed first.
EXPENDABLE = (
    "slm_processed_per_answer",
    "flops_per_answer",
    "llm_processed_per_answer",
    "seconds_per_answer",
    "n_items",
    "hit_at:32",
    "hit_at:16",
    "hit_at:2",
    "accuracy_low",
    "n",
    "tokens_per_second",
    "agreement",
    "llm_forwards_per_answer",
    "flip_rate",
    "hit_at:4",
    "consultations_per_answer",
    "mentor_choice_rate",
    "n_steps",
    "hit_at_8",
    "money_per_1000",
    "cut_off",
)


def show_table(console: Console, table: Table) -> None:
    """Print a table, without the least needed columns if the terminal is too narrow for all."""
    shown = fitted(table, console.width)
    rich = to_rich(shown)
    for column in rich.columns:
        column.no_wrap = True
        column.header = str(column.header).replace(" ", "\n")
    missing = [column.title for column in table.columns if column not in shown.columns]
    if missing:
        rich.caption = f"no room for: {', '.join(missing)} (--json has them)"
        rich.caption_justify = "left"
    console.print(rich)


def fitted(table: Table, width: int) -> Table:
    """The table without as many columns as do not fit into `width`."""
    columns = list(table.columns)
    for key in EXPENDABLE:
        if sum(needed(column, table) + PADDING for column in columns) + 1 <= width:
            break
        columns = [column for column in columns if column.key != key]
    return replace(table, columns=tuple(columns))


def needed(column: Column, table: Table) -> int:
    """Characters that a column takes, its title broken at blanks."""
    return max(map(len, [*column.title.split(), *(column.show(row) for row in table.rows)]))
