"""Which items a command works on, and where it writes: flags that several commands share.

Non-goals: reading items (`evaluation/items.py`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from select_to_think.config import PairConfig
from select_to_think.structures import S2TError, unknown_name

if TYPE_CHECKING:
    from select_to_think.evaluation.items import Item

RUNS = Path("runs")
PANEL = "Data and results"

DataFile = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FILE",
        help="JSON Lines file with id, question, answer (default: a split of the bundled pair).",
        rich_help_panel=PANEL,
    ),
]
Split = Annotated[
    str,
    typer.Option(
        "--split",
        metavar="NAME",
        help="Split of the bundled pair: train, calibration, validation or test.",
        rich_help_panel=PANEL,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", metavar="INT", min=1, help="Items per domain (default: all).", rich_help_panel=PANEL),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Folder for the results (default: one under runs/ that is named after the settings).",
        rich_help_panel=PANEL,
    ),
]


def choose_items(pair: PairConfig, data: Path | None, split: str, limit: int | None) -> list[Item]:
    """The items of --data, or of a split of the bundled pair. Raises S2TError where neither is possible."""
    from select_to_think.evaluation.items import load_items, load_pair_split

    if data is not None:
        return load_items(data, limit_per_domain=limit)
    if pair.slm is not None:
        raise S2TError("with --slm, name the questions too: --data FILE.jsonl with id, question and answer")
    from select_to_think.pairs.problems import SPLIT_PERMILLE

    if split not in SPLIT_PERMILLE:
        raise unknown_name("split", split, SPLIT_PERMILLE)
    return load_pair_split(split, limit_per_domain=limit)


def folder_for(command: str, out: Path | None, *settings: Any) -> Path:
    """`out`, or a folder whose name depends on the settings, so that the same command finds its own unfinished run."""
    if out is not None:
        return out
    plain = [asdict(entry) if is_dataclass(entry) and not isinstance(entry, type) else entry for entry in settings]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()
    return RUNS / f"{command}-{digest[:8]}"
