"""`s2t collect`: groups of candidates with the LLM's judgement, from on-policy rollouts."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any

from rich.console import Console

from select_to_think.cli.data import Out, Style, choose_items, fitting_items, folder_for, models
from select_to_think.cli.options import Batching, CalibratedModels, Only
from select_to_think.cli.output import Reply, note
from select_to_think.cli.progress import progress
from select_to_think.cli.tables import show_facts
from select_to_think.config import CollectConfig, DataConfig
from select_to_think.integrations.ray_workers import RayConfig


def collect(
    pair: CalibratedModels,
    decode: Batching,
    config: CollectConfig,
    data: Annotated[DataConfig, Only(("data", "benchmarks", "data_dir", "split", "skip"))],
    style: Style,
    ray: RayConfig,
    out: Out = None,
) -> Reply:
    """Roll out training questions under s2t and write down what the LLM would choose at the triggered steps.

    A run that was stopped goes on where it stopped. Test data and questions that the calibration saw are refused.
    """
    items = choose_items(pair, replace(data, limit=config.items), style, purpose="train")
    from select_to_think.collect.collect import collect as run

    folder = folder_for("collect", out, pair, decode, config, data, style)
    note(f"the collection goes to {folder}")
    with models(ray, pair, decode) as holder:
        items = fitting_items(holder, items, decode.max_new_tokens, with_llm=True)
        with progress("collecting") as report:
            payload = {"schema": 1, **asdict(run(holder, items, config, decode, folder, report))}
    return Reply(payload, lambda console: show(console, payload))


def show(console: Console, payload: dict[str, Any]) -> None:
    """What the collection holds."""
    share = payload["llm_best_in_group"]
    facts = {
        "folder": payload["folder"],
        "trajectories": f"{payload['trajectories']:,}",
        "steps": f"{payload['steps']:,}",
        "groups": f"{payload['groups']:,}",
        **{f"  by {trigger}": f"{count:,}" for trigger, count in payload["groups_by_trigger"].items()},
        "LLM's best token in the group": "-" if share is None else f"{100 * share:.1f} %",
    }
    show_facts(console, facts, "collection")
