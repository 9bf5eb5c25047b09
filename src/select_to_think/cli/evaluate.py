"""`s2t eval`: accuracy and cost of several methods over the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from select_to_think.cli.command import AGAIN, add_command
from select_to_think.cli.data import PANEL, DataFile, Limit, Out, Split, choose_items, folder_for
from select_to_think.cli.output import Reply, note
from select_to_think.cli.progress import progress
from select_to_think.config import DecodeConfig, PairConfig, SelectConfig

if TYPE_CHECKING:
    from select_to_think.evaluation.results import Results

METHODS = "greedy,maj@8,takeover,s2t,s2t-local,llm"


def evaluate(
    pair: PairConfig,
    decode: DecodeConfig,
    select: SelectConfig,
    methods: Annotated[
        str, typer.Option(metavar="NAMES", help="Methods, comma-separated; N in maj@N is any number.")
    ] = METHODS,
    data: DataFile = None,
    split: Split = "test",
    limit: Limit = None,
    out: Out = None,
    allow_code_execution: Annotated[
        bool,
        typer.Option(
            "--allow-code-execution", help="Run code that the model wrote, to grade it.", rich_help_panel=PANEL
        ),
    ] = False,
) -> Reply:
    """Compare methods on the same questions: accuracy with its standard error, tokens, time, LLM use.

    Records and results go to --out; a run that was stopped goes on where it stopped.
    """
    items = choose_items(pair, data, split, limit)
    from select_to_think.evaluation.runner import evaluate as run
    from select_to_think.session import Session

    names = [name.strip() for name in methods.split(",") if name.strip()]
    folder = folder_for("eval", out, pair, decode, select, data, split, limit)
    note(f"results go to {folder}")
    with progress("evaluating") as report:
        results = run(
            Session.load(pair),
            items,
            names,
            decode,
            select,
            out=folder,
            progress=report,
            allow_code_execution=allow_code_execution,
        )
    return Reply(results.to_json(), lambda console: show(console, folder, results))


def show(console: Console, folder: Path, results: Results) -> None:
    """The table over all domains, then accuracy by domain."""
    from select_to_think.analysis.runs import load_run
    from select_to_think.analysis.tables import domain_table, results_table
    from select_to_think.cli.tables import show_table

    run = load_run(folder, name=folder.name)
    show_table(console, results_table([run]))
    if len(run.domains) > 1:
        show_table(console, domain_table(run))
    for remark in results.provenance["notes"]:
        console.print(remark, style="dim", markup=False)


def register(app: typer.Typer) -> None:
    """Add `s2t eval`."""
    add_command(app, "eval", evaluate, resume=AGAIN)
