"""One evaluation folder, read back: its result rows, its per-item records, its measurement of local sufficiency.

Non-goals: writing these files (`evaluation/`), and any statistic beyond counting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from select_to_think.advice.document import ADVICE, Advice, load_advice
from select_to_think.config import EvalSettings
from select_to_think.evaluation.results import (
    MEASURE,
    RESULTS,
    ItemRecord,
    Provenance,
    ResultRow,
    Results,
    SufficiencyRow,
    load_results,
    read_records,
)
from select_to_think.files import read_record
from select_to_think.structures import S2TError

Records = Mapping[str, ItemRecord]  # by item id, in file order
ALL = "all"
ROUNDING = 1e-9


@dataclass(frozen=True)
class Run:
    """One evaluation. `records`: by method, then by seed, the run's first seed first."""

    name: str
    rows: tuple[ResultRow, ...]
    provenance: Provenance
    records: Mapping[str, Mapping[int, Records]]
    measure: Results[SufficiencyRow] | None = None
    advice: Advice | None = None

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Methods in the order of the result rows."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    @cached_property
    def baseline(self) -> str:
        """The method that the others are compared with."""
        return next((row.baseline for row in self.rows if row.baseline), EvalSettings.baseline)

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Domains other than "all", in the order of the result rows."""
        return tuple(dict.fromkeys(row.domain for row in self.rows if row.domain != ALL))

    def answers(self, method: str, seed: int | None = None) -> Records:
        """The records of one method with `seed_of` it; none without any."""
        found = self.seed_of(method, seed)
        return {} if found is None else self.records[method][found]

    def seed_of(self, method: str, seed: int | None = None) -> int | None:
        """`seed`, if the method was run with it, else the method's first; None without records."""
        seeds = self.records.get(method, {})
        return seed if seed in seeds else next(iter(seeds), None)

    def records_of(self, method: str, domain: str = ALL) -> Iterator[ItemRecord]:
        """The records of one method with every seed, of one domain or ("all") of every domain."""
        for records in self.records.get(method, {}).values():
            yield from (record for record in records.values() if domain in (ALL, record.domain))

    def change(self, method: str, item_id: str, seed: int | None = None) -> str | None:
        """What the method changed against the baseline with the same seed on one item: "fixed", "broken", or None."""
        before, after = (self.answers(name, seed).get(item_id) for name in (self.baseline, method))
        if before is None or after is None or before.right == after.right:
            return None
        return "fixed" if after.right else "broken"

    def changes(self, method: str, seed: int | None = None) -> dict[str, int] | None:
        """How many items the method "fixed" and "broken" against the baseline; None for the baseline or without one."""
        if method == self.baseline or self.baseline not in self.records:
            return None
        kinds = [self.change(method, item_id, seed) for item_id in self.answers(method, seed)]
        return {"fixed": kinds.count("fixed"), "broken": kinds.count("broken")}


def baseline_name(runs: Sequence[Run]) -> str:
    """The baseline of every run in a word."""
    names = {run.baseline for run in runs}
    return names.pop() if len(names) == 1 else "the baseline"


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """Read every folder; equal folder names get a number, so that names tell the runs apart.

    Raises S2TError if there is no folder, or a file of one is missing or broken.
    """
    if not folders:
        raise S2TError("no run given; name at least one folder that `s2t eval --out` wrote")
    names: dict[str, int] = {}
    runs = []
    for folder in folders:
        base = folder.resolve().name or "run"
        names[base] = names.get(base, 0) + 1
        runs.append(load_run(folder, name=base if names[base] == 1 else f"{base} ({names[base]})"))
    return runs


def load_run(folder: Path, *, name: str) -> Run:
    """Read one folder. Raises S2TError naming the file (and the line) that is missing or broken."""
    results = load_results(folder / RESULTS)
    records: dict[str, dict[int, dict[str, ItemRecord]]] = {}
    for seed, place in seed_folders(folder, first=next(iter(results.provenance.get("seeds", ())), 0)):
        for path in sorted(place.glob("records-*.jsonl")):
            for record in read_records(path):
                records.setdefault(record.method, {}).setdefault(seed, {})[record.id] = record
    measured, again = folder / MEASURE, "delete it or run `s2t measure` again"
    run = Run(
        name=name,
        rows=results.rows,
        provenance=results.provenance,
        records=records,
        measure=read_record(Results[SufficiencyRow], measured, remedy=again) if measured.exists() else None,
        advice=load_advice(folder) if (folder / ADVICE).exists() else None,
    )
    for row in run.rows:
        marks = [record.right for record in run.records_of(row.method, row.domain)]
        if len(marks) == row.n > 0 and abs(sum(marks) / row.n - row.accuracy) > ROUNDING:
            raise S2TError(
                f"{folder / RESULTS} does not agree with its records: {row.method} has {sum(marks)} of {row.n} right "
                f"in {row.domain}, not {100 * row.accuracy:.2f} %; run the same `s2t eval` command again"
            )
    return run


def seed_folders(folder: Path, *, first: int) -> list[tuple[int, Path]]:
    """(seed, folder of its records): the run's own folder for its `first` seed, then `seed-N` by rising N."""
    others = ((path.name.removeprefix("seed-"), path) for path in folder.glob("seed-*"))
    return [(first, folder), *sorted((int(name), path) for name, path in others if name.isdecimal())]
