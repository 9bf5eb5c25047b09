"""A table as Markdown, CSV, or plain rows for JSON.

Fractions stay 0-1 in CSV and JSON and become per cent where a person reads.

Non-goals: what the tables hold (`tables.py`), HTML (`html_tables.py`), documents of several tables (`documents.py`).
"""

from __future__ import annotations

import csv
import io
from typing import Any

from select_to_think.analysis.tables import Table


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


def plain_rows(table: Table) -> list[dict[str, Any]]:
    """The exact values of the columns, row by row."""
    return [{key: row.get(key) for key in _keys(table)} for row in table.rows]


def _keys(table: Table) -> list[str]:
    return [key for column in table.columns for key in (column.key, column.error_key, column.high_key) if key]
