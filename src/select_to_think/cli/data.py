"""Which items a command works on, who holds the models meanwhile, and where it writes: what several commands share.

Non-goals: reading items (`evaluation/items.py`, `evaluation/benchmarks/`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from select_to_think.cli.options import DATA_PANEL, Only
from select_to_think.cli.output import note
from select_to_think.config import DataConfig, DecodeConfig, PairConfig, PromptStyle, RuntimeConfig
from select_to_think.integrations.ray_workers import RayConfig, connected
from select_to_think.structures import S2TError
from select_to_think.text import comma_separated

if TYPE_CHECKING:
    from select_to_think.evaluation.items import Item
    from select_to_think.evaluation.workers import Workers
    from select_to_think.session import Session

RUNS = Path("runs")
Purpose = Literal["test", "calibration", "train", "validation"]  # the default split of the bundled pair
AS_IT_IS = PromptStyle()
VERBS = {"calibration": "calibrate on", "train": "collect from", "validation": "take advice from"}

Style = Annotated[PromptStyle, Only(("template", "shots"))]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Folder for the results (default: one under runs/ that is named after the settings).",
        rich_help_panel=DATA_PANEL,
    ),
]


def choose_items(
    pair: PairConfig, data: DataConfig, style: PromptStyle = AS_IT_IS, *, purpose: Purpose = "test"
) -> list[Item]:
    """The items of --data, of --benchmarks, or of a split of the bundled pair, each with its prompt: that of --data is
    the bare question, and the choices where the question does not list them behind letters.

    All but test items come from train splits only; those for validation need no answers. Raises S2TError where that is
    not possible.
    """
    from select_to_think.evaluation.benchmarks import ask, load
    from select_to_think.evaluation.items import limit_items, load_items, refuse_test

    check_source(data)
    learned, names = purpose != "test", dict.fromkeys(comma_separated(data.benchmarks or ""))
    for source in (data.data, *names) if learned else ():
        refuse_test([], purpose=VERBS[purpose], source=source)
    last = None if data.limit is None else data.skip + data.limit
    if names:
        found = {name: load(name, data.split, data_dir=data.data_dir, learned=learned) for name in names}
        assert_told_apart(found)
        items = [item for part in found.values() for item in part]
    elif data.data is not None:
        items = load_items(data.data, answered=purpose != "validation")
    else:
        items = pair_items(pair, data.split or purpose, last)
    if learned:
        refuse_test(items, purpose=VERBS[purpose])
    items = limit_items(items, data.limit, skip=data.skip)
    bare = not names and style == AS_IT_IS
    prompts = ask(items, style, data_dir=data.data_dir)
    return [
        item if prompt == item.question or (bare and names_choices(item)) else replace(item, prompt=prompt)
        for item, prompt in zip(items, prompts, strict=True)
    ]


def assert_told_apart(found: Mapping[str, Sequence[Item]]) -> None:
    """Raise S2TError for items of two files that would count as one domain, named after both of them."""
    from select_to_think.evaluation.benchmarks import row_of

    rows: dict[str, str] = {}
    for name in (name for name, items in found.items() if any(item.domain == row_of(name) for item in items)):
        if (other := rows.setdefault(row_of(name), name)) != name:
            raise S2TError(f"{other} and {name} would be one domain, {row_of(name)}: rename a file")


def names_choices(item: Item) -> bool:
    """Whether the question itself lists the choices, each behind its letter."""
    lettered = (rf"\b{chr(65 + i)}\W{{1,3}}{re.escape(choice)}" for i, choice in enumerate(item.choices or ()))
    return all(re.search(each, item.question) for each in lettered)


def check_source(data: DataConfig) -> None:
    """Raise S2TError for flags that contradict each other."""
    if data.data is not None and data.benchmarks is not None:
        raise S2TError("--data and --benchmarks exclude each other; --benchmarks takes *.jsonl files too")
    if data.data is not None and data.split is not None:
        raise S2TError("--split goes with --benchmarks or the bundled pair; --data takes the whole file")
    if data.data_dir is not None and data.benchmarks is None:
        raise S2TError("--data-dir goes with --benchmarks; name some, for example --benchmarks gsm8k")
    if data.benchmarks is not None and not comma_separated(data.benchmarks):
        raise S2TError("no benchmark named; give some with --benchmarks, for example gsm8k,arc-challenge")


def pair_items(pair: PairConfig, split: str, limit: int | None) -> list[Item]:
    """The first `limit` items of each domain of the bundled pair."""
    from select_to_think.evaluation.items import load_pair_split

    if pair.slm is not None:
        raise S2TError("with --slm, name the questions too: --benchmarks NAMES, or --data FILE.jsonl")
    return load_pair_split(split, limit_per_domain=limit)


def fitting_items(holder: Session | Workers, items: list[Item], max_new_tokens: int, *, with_llm: bool) -> list[Item]:
    """The items whose prompts fit the context; says how many do not."""
    from select_to_think.evaluation.fitting import only_fitting

    kept, remarks = only_fitting(holder, items, max_new_tokens, with_llm=with_llm)
    for remark in remarks:
        note(remark)
    return kept


@contextmanager
def models(
    ray: RayConfig, pair: PairConfig, decode: DecodeConfig, runtime: RuntimeConfig = RuntimeConfig()
) -> Iterator[Session | Workers]:
    """A session on the pair, or workers on the cluster that hold it."""
    if ray.ray is None:
        from select_to_think.session import Session

        yield Session.load(pair, runtime)
        return
    with connected(ray, pair, runtime, rows=decode.max_batch) as workers:
        note(f"{len(workers.slots)} workers of {len(workers.ray.nodes())} nodes do the work")
        yield workers


def folder_for(command: str, out: Path | None, *settings: Any) -> Path:
    """`out`, or a folder whose name depends on the settings, so that the same command finds its own unfinished run."""
    if out is not None:
        return out
    plain = [asdict(entry) if is_dataclass(entry) and not isinstance(entry, type) else entry for entry in settings]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()
    return RUNS / f"{command}-{digest[:8]}"
