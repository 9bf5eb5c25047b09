"""`s2t calibrate`: thresholds of the triggers for a pair, from data of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from select_to_think.cli.data import Style, choose_items, fitting_items, folder_for
from select_to_think.cli.options import DATA_PANEL, MODELS, Batching, Only
from select_to_think.cli.output import Reply
from select_to_think.cli.progress import progress
from select_to_think.config import DataConfig, PairConfig
from select_to_think.structures import S2TError

SHOWN_BUDGETS = (0.01, 0.02, 0.05, 0.1, 0.2)


def calibrate(
    pair: Annotated[PairConfig, Only((*MODELS, "scorer"))],
    decode: Batching,
    data: DataConfig,
    style: Style,
    with_llm: Annotated[
        bool, typer.Option("--with-llm/--no-llm", metavar="", help="Calibrate the KL trigger too, which needs the LLM.")
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The calibration file (default: one under runs/).", rich_help_panel=DATA_PANEL
        ),
    ] = None,
) -> Reply:
    """Fit the triggers' thresholds on data that no test uses; give the file to other commands as --calibration.

    A coupled scorer changes what the SLM proposes: with --scorer its thresholds are made, and lie in its folder.
    """
    if pair.scorer is not None and out is not None:
        raise S2TError("--out and --scorer exclude each other: the thresholds of a coupled scorer lie in its folder")
    items = choose_items(pair, data, style, purpose="calibration")
    from select_to_think.evaluation.calibrate import calibrate as calibrate_pair
    from select_to_think.evaluation.calibrate import calibrate_coupled, save_calibration
    from select_to_think.files import make_room
    from select_to_think.session import Session
    from select_to_think.triggers.calibration import CALIBRATION

    with_llm = with_llm and pair.scorer is None
    if pair.scorer is not None:
        path, run = Path(pair.scorer) / CALIBRATION, calibrate_coupled
    else:
        path = out or folder_for("calibrate", None, pair, decode, data, style, with_llm) / CALIBRATION
        make_room(path)
        run = partial(calibrate_pair, with_llm=with_llm)
    session = Session.load(pair)
    items = fitting_items(session, items, decode.max_new_tokens, with_llm=with_llm)
    with progress("calibrating") as report:
        calibration = run(session, items, decode=decode, progress=report)
    save_calibration(calibration, path)
    thresholds = {
        trigger: {f"{budget:g}": calibration.threshold(trigger, budget) for budget in SHOWN_BUDGETS}
        for trigger in calibration.quantiles
    }
    payload = {
        "schema": 1,
        "calibration": str(path),
        "n_items": len(items),
        "n_steps": calibration.n_steps,
        "thresholds": thresholds,
    }
    return Reply(payload, lambda console: show(console, payload))


def show(console: Console, payload: dict[str, Any]) -> None:
    """Thresholds at some budgets."""
    table = Table(title=f"thresholds over {payload['n_steps']:,} steps", title_justify="left")
    table.add_column("trigger")
    for budget in SHOWN_BUDGETS:
        table.add_column(f"{100 * budget:g} %", justify="right")
    for trigger, thresholds in payload["thresholds"].items():
        table.add_row(trigger, *(f"{value:.4g}" for value in thresholds.values()))
    console.print(table)
    console.print(f"calibration: {payload['calibration']}", soft_wrap=True)
