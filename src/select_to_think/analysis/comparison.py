"""Two methods item by item, of one run or of two: who is right where the other is wrong, and on which items.

A is what one compares with, B what is looked at: a win is an item that B answers right and A wrong.

Non-goals: every method against a run's baseline (`tables.py`), the statistics (`evaluation/statistics.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from select_to_think.analysis.runs import ALL, Records, Run, load_runs
from select_to_think.analysis.tables import DOMAIN, Column, Table
from select_to_think.evaluation.items import with_all
from select_to_think.evaluation.results import RUN
from select_to_think.evaluation.run_folder import read_run
from select_to_think.evaluation.statistics import paired_difference
from select_to_think.files import flat
from select_to_think.structures import S2TError
from select_to_think.text import suggestion

Outcome = Literal["win", "loss", "tie"]
SHOWN_IDS = 3  # in an error


@dataclass(frozen=True)
class Side:
    """One method of one run: its records by item id, once for each seed, and what its settings were."""

    run: str
    method: str
    seeds: tuple[Records, ...]
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The method and its run."""
        return f"{self.method} ({self.run})"

    def right(self, item_id: str) -> float:
        """Share of the seeds that answer the item right: 0 or 1 for a single seed."""
        return sum(records[item_id].right for records in self.seeds) / len(self.seeds)


@dataclass(frozen=True)
class Comparison:
    """`rows`: one for each domain, then "all"; `items`: every item with its outcome and both (first) answers."""

    a: Side
    b: Side
    rows: tuple[dict[str, Any], ...]
    items: tuple[dict[str, Any], ...]
    settings: tuple[dict[str, Any], ...]  # that both have and that differ: {"name", "a", "b"}

    def to_json(self) -> dict[str, Any]:
        """Everything as one object."""
        sides = {key: {"run": side.run, "method": side.method} for key, side in (("a", self.a), ("b", self.b))}
        return {**sides, "settings": self.settings, "results": self.rows, "items": self.items}

    def table(self) -> Table:
        """The rows for people."""
        columns = (
            DOMAIN,
            Column("accuracy_a", "A", "percent"),
            Column("accuracy_b", "B", "percent"),
            Column("difference", "B\u00a0−\u00a0A", "points"),
            Column("low", "95\u00a0% interval", "points", high_key="high"),
            Column("wins", "Wins", "count"),
            Column("losses", "Losses", "count"),
            Column("ties", "Ties", "count"),
            Column("mcnemar_p", "p", "p"),
            Column("truncated_a", "Cut off A", "count"),
            Column("truncated_b", "Cut off B", "count"),
            Column("n", "n", "count"),
        )
        return Table(f"A: {self.a.label}   B: {self.b.label}", columns, self.rows)

    def items_table(self, outcome: Outcome, limit: int) -> Table:
        """The first `limit` items of an outcome (0: all) with both answers."""
        found = [item for item in self.items if item["outcome"] == outcome]
        shown = found[: limit or None]
        title = {"win": "Wins: B right, A wrong", "loss": "Losses: A right, B wrong", "tie": "Ties"}[outcome]
        count = f"{len(shown)} of {len(found):,}" if len(shown) < len(found) else f"{len(found):,}"
        columns = (
            Column("id", "Item", "text"),
            Column("answer", "Right answer", "text"),
            Column("answer_a", "A answered", "text"),
            Column("answer_b", "B answered", "text"),
        )
        return Table(f"{title} ({count})", columns, tuple(shown))


def compare_runs(folders: Sequence[Path], methods: Sequence[str]) -> list[Comparison]:
    """Compare methods of one or two runs.

    Args:
        folders: one or two runs; the first holds A, the last B.
        methods: none (every method that both runs have), one (in both runs), or two (the first is A).

    Raises:
        S2TError: nothing to compare, unknown methods, or items that are not the same.
    """
    if not 1 <= len(folders) <= 2 or len(methods) > 2:
        raise S2TError("name one or two runs and at most two methods, as in: s2t compare RUN --methods greedy,s2t")
    places = list({folder.resolve(): folder for folder in folders}.values())
    runs = load_runs(places)
    first, last = runs[0], runs[-1]
    pairs = [(methods[0], methods[-1])] if methods else [(m, m) for m in first.records if m in last.records]
    if len(places) == 1 and all(a == b for a, b in pairs):
        raise S2TError("a method is compared with itself; name two with --methods A,B, or a second run")
    if not pairs:
        raise S2TError("the runs have no method in common; name one of each with --methods A,B")
    return [compare(load_side(first, places[0], a), load_side(last, places[-1], b)) for a, b in pairs]


def load_side(run: Run, folder: Path, method: str) -> Side:
    """One method of a run, with all its seeds. Raises S2TError if there are no records of it."""
    if method not in run.records:
        raise S2TError(f"{folder} has no method {method!r}; {suggestion(method, run.records)}")
    return Side(run.name, method, tuple(run.records[method].values()), load_settings(folder, method))


def load_settings(folder: Path, method: str) -> dict[str, Any]:
    """What decided the answers of a method, under dotted names; empty where the run did not write it down."""
    if not (folder / RUN).exists():
        return {}
    run = read_run(folder)
    own = run["methods"].get(method, {})
    general = {name: value for name, value in run.items() if name not in ("schema", "items", "methods")}
    return flat({**general, **own})


def compare(a: Side, b: Side) -> Comparison:
    """Compare two sides on the same items. Raises S2TError if their items differ."""
    for records in (*a.seeds[1:], *b.seeds):
        require_same_items(a, b, a.seeds[0], records)
    items = tuple(_item(a, b, item_id) for item_id in a.seeds[0])
    names = with_all(item["domain"] for item in items)
    rows = tuple(_row(a, b, domain, items) for domain in (names if len(names) > 2 else [ALL]))
    return Comparison(a, b, rows, items, different_settings(a, b))


def require_same_items(a: Side, b: Side, ours: Records, theirs: Records) -> None:
    """Raise S2TError naming items that only one side has, or that are not the same question on both."""
    for name, one, other in ((a.label, ours, theirs), (b.label, theirs, ours)):
        alone = [item_id for item_id in one if item_id not in other]
        if alone:
            shown = ", ".join(alone[:SHOWN_IDS]) + (", ..." if len(alone) > SHOWN_IDS else "")
            raise S2TError(f"{len(alone)} item(s) stand only in {name} ({shown}); evaluate both on the same items")
    for item_id, record in ours.items():
        if (record.question, record.answer) != (theirs[item_id].question, theirs[item_id].answer):
            raise S2TError(f"item {item_id} is another question in each run; evaluate both on the same items")


def different_settings(a: Side, b: Side) -> tuple[dict[str, Any], ...]:
    """Settings that differ; of two methods those that both have, as each brings its own."""
    names = a.settings.keys() & b.settings.keys() if a.method != b.method else a.settings.keys() | b.settings.keys()
    found = [{"name": name, "a": a.settings.get(name), "b": b.settings.get(name)} for name in sorted(names)]
    return tuple(entry for entry in found if entry["a"] != entry["b"])


def _item(a: Side, b: Side, item_id: str) -> dict[str, Any]:
    before, after = a.seeds[0][item_id], b.seeds[0][item_id]
    right = a.right(item_id), b.right(item_id)
    return {
        "id": item_id,
        "domain": before.domain,
        "outcome": "win" if right[1] > right[0] else "loss" if right[1] < right[0] else "tie",
        "right_a": right[0],
        "right_b": right[1],
        "answer": before.answer,
        "answer_a": before.extracted,
        "answer_b": after.extracted,
        "finish_reason_a": before.finish_reason,
        "finish_reason_b": after.finish_reason,
    }


def _row(a: Side, b: Side, domain: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mine = [item for item in items if domain in (ALL, item["domain"])]
    before, after = ([item[key] for item in mine] for key in ("right_a", "right_b"))
    found = paired_difference(after, before)
    cut = {
        f"truncated_{key}": sum(records[i["id"]].finish_reason == "length" for records in side.seeds for i in mine)
        for key, side in (("a", a), ("b", b))
    }
    return {
        "domain": domain,
        "accuracy_a": sum(before) / len(mine),
        "accuracy_b": sum(after) / len(mine),
        **asdict(found),
        "ties": len(mine) - found.wins - found.losses,
        **cut,
    }
