"""`s2t compare`: two methods item by item, of one run or of two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from select_to_think.cli.output import Reply
from select_to_think.text import comma_separated

if TYPE_CHECKING:
    from select_to_think.analysis.comparison import Comparison


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN_A [RUN_B]", help="One or two folders that `s2t eval` wrote.")
    ],
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            "--method",
            metavar="A[,B]",
            help="One method, looked at in both runs; or two: A of the first run, B of the last (default: every "
            "method that both runs have).",
        ),
    ] = "",
    items: Annotated[
        int, typer.Option("--items", metavar="INT", min=0, help="Wins and losses to list; 0 lists all.")
    ] = 20,
) -> Reply:
    """Print wins, losses and ties of B against A on the same items, and which items they are.

    One method in two runs: s2t compare RUN_A RUN_B --method s2t-local.

    Two methods of one run: s2t compare RUN --methods greedy,s2t-local.

    A win is an item that B answers right and A wrong. The difference has a 95 % bootstrap interval over the items; p is
    McNemar's exact test.
    """
    from select_to_think.analysis.comparison import compare_runs

    found = compare_runs(runs, comma_separated(methods))
    payload = {"schema": 1, "comparisons": [comparison.to_json() for comparison in found]}
    return Reply(payload, lambda console: show(console, found, items))


def show(console: Console, found: list[Comparison], limit: int) -> None:
    """Each comparison: settings that differ, the table, the items that changed."""
    from select_to_think.cli.tables import show_table, to_rich

    for comparison in found:
        show_table(console, comparison.table())
        if comparison.settings:
            words = (f"{s['name']} {short(s['a'])} / {short(s['b'])}" for s in comparison.settings)
            console.print(Text(f"settings that differ (A / B): {', '.join(words)}"))
        for outcome in ("win", "loss"):
            table = comparison.items_table(outcome, limit)
            if table.rows:
                console.print(to_rich(table))


def short(value: object) -> str:
    """A setting in a few characters; of a fingerprint its beginning."""
    text = "none" if value is None else str(value)
    return text if len(text) <= 20 else f"{text[:8]}…"
