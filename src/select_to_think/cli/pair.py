"""`s2t pair info`: look at a bundled pair."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from select_to_think.cli.output import Reply

ROLES = ("slm", "llm")
MEBI = 1024 * 1024


def info(
    pair: Annotated[str, typer.Option("--pair", metavar="TEXT", help="A bundled pair by name.")] = "demo",
) -> Reply:
    """Say what a bundled pair holds: models, sizes, problems, scorers."""
    from select_to_think.pairs import bundled_folder, bundled_model, bundled_notes
    from select_to_think.pairs.problems import DOMAINS, SPLIT_SIZES

    folder = bundled_folder(pair)
    models = {role: bundled_model(pair, role) for role in ROLES}
    files = {*folder.rglob("*")} - {*(folder / "llm").rglob("*")} | {*models["llm"].rglob("*")}
    payload = {
        "schema": 1,
        "pair": pair,
        "folder": str(folder),
        "bytes": sum(path.stat().st_size for path in files if path.is_file()),
        "models": {role: model_facts(path) for role, path in models.items()},
        "notes": json.loads(bundled_notes(pair).read_text(encoding="utf-8")),
        "scorers": sorted(path.name for path in (folder / "scorers").glob("*") if path.is_dir()),
        "domains": list(DOMAINS),
        "problems_per_domain": dict(SPLIT_SIZES),
    }
    return Reply(payload, lambda console: show(console, payload))


def model_facts(folder: Path) -> dict[str, Any]:
    """Architecture, shape and number of parameters of a checkpoint, read from its files without loading it."""
    from safetensors import safe_open

    from select_to_think.files import read_json

    config = read_json(folder / "config.json", remedy="install the package again: its pair is not complete")
    parameters = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as weights:
            parameters += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return {
        "architecture": config["architectures"][0],
        "parameters": parameters,
        "layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "vocab_size": config["vocab_size"],
        "max_positions": config["max_position_embeddings"],
    }


def show(console: Console, payload: dict[str, Any]) -> None:
    """The pair as two small tables."""
    table = Table(title=f"pair {payload['pair']} ({payload['bytes'] / MEBI:.1f} MiB)", title_justify="left")
    for heading in ("model", "architecture", "parameters", "layers", "hidden", "vocabulary", "context"):
        table.add_column(heading, justify="left" if heading in ("model", "architecture") else "right")
    for role, facts in payload["models"].items():
        table.add_row(role, *(f"{value:,}" if isinstance(value, int) else value for value in facts.values()))
    console.print(table)
    sizes = ", ".join(f"{split} {count}" for split, count in payload["problems_per_domain"].items())
    console.print(f"problems per domain ({', '.join(payload['domains'])}): {sizes}")
    console.print(f"scorers: {', '.join(payload['scorers']) or 'none'}")
    for note in payload["notes"]:
        console.print(note)
    console.print(f"folder: {payload['folder']}", soft_wrap=True)
