"""Benchmarks: one shape (`base.py`), one table (`table.py`).

`load` gives the items of a benchmark, or of any JSON Lines file, all or what may be learned from; `ask` writes the
prompts.

Non-goals: running and grading.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from select_to_think.config import PromptStyle
from select_to_think.evaluation.benchmarks.base import PROMPTS, Benchmark, Split, fill
from select_to_think.evaluation.benchmarks.table import BENCHMARKS
from select_to_think.evaluation.items import Item, load_items, question_key
from select_to_think.structures import S2TError
from select_to_think.text import known_name

__all__ = ["BENCHMARKS", "Benchmark", "Split", "ask", "load", "row_of"]

OWN_PROMPTS = {**PROMPTS, "number": "{question}"}  # of items of the user's own


def load(
    name: str, split: str | None = None, *, data_dir: str | Path | None = None, learned: bool = False
) -> list[Item]:
    """Items of a benchmark by name, or of a user's file (`*.jsonl[.gz]`; its domain is the file's name).

    `learned`: something is calibrated or trained on them.

    Raises:
        S2TError: unknown name or split, missing or broken data, a split whose role is test where that is learned from.
    """
    if name.endswith((".jsonl", ".jsonl.gz")):
        return [replace(item, domain=row_of(name)) if item.domain == "all" else item for item in load_items(name)]
    found = BENCHMARKS[known_name("benchmark", name, BENCHMARKS)]
    split, part = found.split(split or ("train" if learned else None))
    if learned and part.role != "train":
        raise S2TError(f"{name} ({split}) is for evaluation only: calibrate and train on a split whose role is train")
    return found.load(split, data_dir=data_dir)


def row_of(name: str) -> str:
    """The row of the tables in which the items of a benchmark or of a file stand, if they name no domain."""
    return Path(name).name.removesuffix(".gz").removesuffix(".jsonl")


def ask(items: Sequence[Item], style: PromptStyle, *, data_dir: str | Path | None = None) -> list[str]:
    """What the model is asked of each item: solved examples, if any, then the item, each in the template.

    Items that belong to no benchmark get the template, or the default of their type.

    No item is its own example: whoever it would be shown to gets the next one drawn.

    Raises:
        S2TError: a template without the question; examples are wanted and an item's benchmark has no train split or it
            is not there.
    """
    if style.template is not None and "{question}" not in style.template:
        raise S2TError(f"the template {style.template!r} has no {{question}}; say where the question goes")
    shots: dict[str, list[Item]] = {}
    prompts = []
    for item in items:
        known = BENCHMARKS.get(item.domain)
        if style.shots and item.domain not in shots:
            if known is None:
                raise S2TError(f"solved examples need a benchmark with a train split, and {item.domain} has none")
            pool = load(known.name, data_dir=data_dir, learned=True)
            shots[item.domain] = random.Random(style.seed).sample(pool, min(style.shots + 1, len(pool)))
        template = style.template or (known.prompt if known else OWN_PROMPTS.get(item.answer_type, "{question}"))
        others = [shot for shot in shots.get(item.domain, ()) if question_key(shot) != question_key(item)]
        solved = [f"{fill(template, shot)}\n\n{known.solved(shot)}" for shot in others[: style.shots] if known]
        prompts.append("\n\n\n".join([*solved, fill(template, item)]))
    return prompts
