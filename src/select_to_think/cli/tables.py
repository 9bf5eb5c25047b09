"""Tables of results on a terminal: no value is ever cut off.

What is expendable and does not fit is left out, column by column, and said so; what is not expendable goes into further
parts of the table, one below the other.

Non-goals: what the columns are (`analysis/tables.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from select_to_think.analysis.tables import Column, Table
from select_to_think.text import visible

PADDING = 3  # columns of the terminal between two cells
# What a narrow terminal can do without, the least needed first.
EXPENDABLE = """
    slm_processed_per_answer flops_per_answer llm_processed_per_answer seconds_per_answer n_items hit_at:32
    hit_at:16 hit_at:2 accuracy_low n tokens_per_second agreement llm_forwards_per_answer flip_rate hit_at:4
    consultations_per_answer mentor_choice_rate n_steps hit_at_8 money_per_1000 cut_off
""".split()


def to_rich(table: Table) -> RichTable:
    """The table for a terminal."""
    shown = RichTable(title=table.title)
    for column in table.columns:
        shown.add_column(column.title, justify="left" if column.kind == "text" else "right")
    for row in table.rows:
        shown.add_row(*(Text(visible(column.show(row))) for column in table.columns))
    return shown


def show_table(console: Console, table: Table) -> None:
    """Print a table, without the least needed columns and in parts if the terminal is too narrow for all."""
    shown = fitted(table, console.width)
    pieces = [to_rich(part) for part in parts(shown, console.width)]
    missing = [column.title for column in table.columns if column not in shown.columns]
    if missing:
        pieces[-1].caption = f"no room for: {', '.join(missing)} (--json has them)"
        pieces[-1].caption_justify = "left"
    for number, rich in enumerate(pieces):
        for column in rich.columns:
            column.no_wrap = True
            column.header = str(column.header).replace(" ", "\n")
        if number:
            rich.title = None
        console.print(rich)


def show_facts(console: Console, facts: Mapping[str, str], title: str | None = None) -> None:
    """Print names and their values below each other."""
    shown = RichTable(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
    for fact in facts.items():
        shown.add_row(*fact)
    console.print(shown)


def fitted(table: Table, width: int) -> Table:
    """The table without as many columns as do not fit into `width`."""
    columns = list(table.columns)
    for key in EXPENDABLE:
        if fits(columns, table, width):
            break
        columns = [column for column in columns if column.key != key]
    return replace(table, columns=tuple(columns))


def parts(table: Table, width: int) -> list[Table]:
    """The table in parts that fit into `width`, each beginning with the columns of text that the table begins with."""
    names = tuple(takewhile(lambda column: column.kind == "text", table.columns))
    found = [names]
    for column in table.columns[len(names) :]:
        if found[-1] == names or fits((*found[-1], column), table, width):
            found[-1] += (column,)
        else:
            found.append((*names, column))
    return [replace(table, columns=columns) for columns in found]


def fits(columns: Sequence[Column], table: Table, width: int) -> bool:
    """Whether these columns of the table stand side by side in `width` characters."""
    return sum(needed(column, table) + PADDING for column in columns) + 1 <= width


def needed(column: Column, table: Table) -> int:
    """Characters that a column takes, its title broken at blanks."""
    return max(map(len, [*column.title.split(), *(visible(column.show(row)) for row in table.rows)]))
