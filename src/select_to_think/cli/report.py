"""`s2t report`: the results of evaluations as one self-contained HTML page, as text, and as figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from select_to_think.cli.output import Reply
from select_to_think.text import known_name, visible

FILE_NAME = "report.html"
FORMATS = ("html", "md", "csv", "json")


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `s2t eval` or `s2t demo` wrote.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help=f"The report (default: {FILE_NAME} in the first folder; stdout for text)."
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME",
            help="html: a page that needs no network; md: tables to read; csv, json: exact values.",
            autocompletion=lambda: FORMATS,
        ),
    ] = "html",
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="FOLDER", help="Also draw the charts there, as SVG files."),
    ] = None,
) -> Reply:
    """Write the report of one or several evaluations: a page for people, or tables for papers and programs."""
    known_name("format", format, FORMATS)
    from select_to_think.analysis.documents import DOCUMENTS
    from select_to_think.analysis.figures import write_figures
    from select_to_think.analysis.runs import load_runs
    from select_to_think.files import make_folder, write_text_atomic

    found = load_runs(runs)
    drawn = [] if figures is None else write_figures(found, figures)
    text, path = DOCUMENTS[format](found), out or (runs[0] / FILE_NAME if format == "html" else None)
    if path is not None:
        make_folder(path.parent)
        write_text_atomic(path, text)
    payload = {
        "schema": 1,
        "format": format,
        "report": None if path is None else str(path),
        "text": text if path is None else None,
        "figures": list(map(str, drawn)),
    }
    return Reply(payload, lambda console: show(console, text, path, drawn))


def show(console: Console, text: str, path: Path | None, drawn: list[Path]) -> None:
    """Print the text, or name the files."""
    if path is None:
        console.file.write(visible(text) if console.is_terminal else text)
        return
    console.print(f"report: {path.resolve()}", soft_wrap=True)
    if drawn:
        console.print(f"figures: {drawn[0].parent.resolve()} ({len(drawn)} files)", soft_wrap=True)
