"""`s2t measure`: how often the LLM's choice is already among the SLM's top-k."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from select_to_think.cli.data import Style, choose_items, models
from select_to_think.cli.options import DATA_PANEL, Batching, Models, Only
from select_to_think.cli.output import Reply
from select_to_think.cli.progress import progress
from select_to_think.config import DataConfig, SelectConfig
from select_to_think.integrations.ray_workers import RayConfig

if TYPE_CHECKING:
    from select_to_think.evaluation.results import Results, SufficiencyRow


def measure(
    pair: Models,
    decode: Batching,
    select: Annotated[
        SelectConfig, Only(("trigger_budget", "candidates", "trigger_definition", "warm_up_steps"), presets=True)
    ],
    data: DataConfig,
    style: Style,
    ray: RayConfig,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="An evaluation's folder, whose report shows the table then (default: nothing is written).",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
) -> Reply:
    """Local sufficiency: at the steps where the models differ most, is the LLM's token in the SLM's top-k (Hit@k)?

    With the folder of an evaluation of the same pair as --out, its report shows the table too.
    """
    items = choose_items(pair, data, style)
    from select_to_think.evaluation.measure import measure as run
    from select_to_think.evaluation.results import MEASURE
    from select_to_think.evaluation.run_folder import require_same_pair
    from select_to_think.evaluation.settings import fingerprints
    from select_to_think.evaluation.workers import workers_of
    from select_to_think.files import make_folder

    if out is not None:
        make_folder(out)
    with models(ray, pair, decode) as holder, progress("measuring") as report:
        if out is not None:
            require_same_pair(out, workers_of(holder).ask(fingerprints))
        found = run(holder, items, select=select, decode=decode, progress=report)
    if out is not None:
        found.save(out / MEASURE)
    return Reply(found.to_json(), lambda console: show(console, found))


def show(console: Console, found: Results[SufficiencyRow]) -> None:
    """Hit@k per domain."""
    from select_to_think.analysis.runs import Run
    from select_to_think.analysis.tables import hit_table
    from select_to_think.cli.tables import show_table

    run = Run("measure", rows=(), provenance=found.provenance, records={}, measure=found)
    show_table(console, hit_table([run]))
    for remark in found.provenance["notes"]:
        console.print(remark, style="dim")
