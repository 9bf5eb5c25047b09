"""`s2t report`: one self-contained HTML page from the results of evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from select_to_think.cli.command import add_command
from select_to_think.cli.output import Reply

FILE_NAME = "report.html"


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `s2t eval` or `s2t demo` wrote.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help=f"The page (default: {FILE_NAME} in the first folder).")
    ] = None,
) -> Reply:
    """Write the HTML report of one or several evaluations: one file that needs no network."""
    from select_to_think.analysis.report import write_report

    path = write_report(runs, out or runs[0] / FILE_NAME)
    return Reply({"schema": 1, "report": str(path)}, lambda console: show(console, path))


def show(console: Console, path: Path) -> None:
    """Name the page."""
    console.print(f"report: {path.resolve()}", markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add `s2t report`."""
    add_command(app, "report", report)
