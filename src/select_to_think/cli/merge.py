"""`s2t merge`: the shards of an evaluation as one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from select_to_think.cli.command import add_command
from select_to_think.cli.evaluate import show
from select_to_think.cli.output import Reply


def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The folders of all shards.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The folder of the whole run.")],
) -> Reply:
    """Join what `s2t eval --shard 1/N` ... `N/N` wrote into the folder that one process would have left.

    The shards must have the same settings and hold every item once; all rows are counted again.
    """
    from select_to_think.evaluation.merge import merge as run

    results = run(runs, out)
    return Reply(results.to_json(), lambda console: show(console, out, results))


def register(app: typer.Typer) -> None:
    """Add `s2t merge`."""
    add_command(app, "merge", merge)
