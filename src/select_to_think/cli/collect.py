"""`s2t collect`: groups of candidates with the LLM's judgement, from on-policy rollouts."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from select_to_think.cli.command import AGAIN, add_command
from select_to_think.cli.data import DataFile, Out, Split, choose_items, folder_for
from select_to_think.cli.options import Batching, CalibratedModels
from select_to_think.cli.output import Reply, note
from select_to_think.cli.progress import progress
from select_to_think.config import CollectConfig


def collect(
    pair: CalibratedModels,
    decode: Batching,
    config: CollectConfig,
    data: DataFile = None,
    split: Split = "train",
    out: Out = None,
) -> Reply:
    """Roll out training questions under s2t and write down what the LLM would choose at the triggered steps.

    A run that was stopped goes on where it stopped. Test data are refused.
    """
    items = choose_items(pair, data, split, config.items)
    from select_to_think.collect.collect import collect as run
    from select_to_think.collect.collect import summary_json
    from select_to_think.evaluation.items import refuse_test
    from select_to_think.session import Session

    refuse_test(items, purpose="collect from", source=data)
    folder = folder_for("collect", out, pair, decode, config, data, split)
    note(f"the collection goes to {folder}")
    with progress("collecting") as report:
        payload = summary_json(run(Session.load(pair), items, config, decode, folder, report))
    return Reply(payload, lambda console: show(console, payload))


def show(console: Console, payload: dict[str, Any]) -> None:
    """What the collection holds."""
    table = Table(title="collection", title_justify="left", box=None, show_header=False, pad_edge=False)
    share = payload["llm_best_in_group"]
    rows = {
        "folder": payload["folder"],
        "trajectories": f"{payload['trajectories']:,}",
        "steps": f"{payload['steps']:,}",
        "groups": f"{payload['groups']:,}",
        **{f"  by {trigger}": f"{count:,}" for trigger, count in payload["groups_by_trigger"].items()},
        "LLM's best token in the group": "-" if share is None else f"{100 * share:.1f} %",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def register(app: typer.Typer) -> None:
    """Add `s2t collect`."""
    add_command(app, "collect", collect, resume=AGAIN)
