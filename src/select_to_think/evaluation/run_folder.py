"""The folder of one evaluation: what decides its answers, where each method's records stand, its table.

`run.json` holds the settings. `records-METHOD.jsonl` holds a method's records in item order; with several seeds, those
of the first are there and those of every other seed in `seed-N/`. While a method runs, each finished item is appended
to `records-METHOD.jsonl.part` in order of finishing, so a kill loses nothing. `results.json` is computed from the
records and from nothing else.

Non-goals: decoding (`runner.py`), joining folders (`merge.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import NonNegativeInt
from typing_extensions import TypedDict

from select_to_think.config import PriceConfig
from select_to_think.evaluation.items import Item, require_same_run
from select_to_think.evaluation.metrics import compared, outcomes, summarise
from select_to_think.evaluation.results import REMEDY, RUN, ItemRecord, ResultRow, read_records
from select_to_think.files import (
    Journal,
    make_folder,
    read_record,
    require_same_settings,
    write_json_atomic,
    write_jsonl_atomic,
)
from select_to_think.structures import S2TError

SHARED = ("slm", "dtype")  # by all methods of a run, whose answers are compared item by item ...
SHARED_DECODING = ("max_new_tokens", "seed")  # ... and of how they decode


class ItemsNote(TypedDict):
    """Which items a run is about, see `items_note`."""

    count: NonNegativeInt
    sha256: str


class RunSettings(TypedDict):
    """What `run.json` holds: what decides the answers of the run, and under `methods` those of each part by name."""

    schema: Literal[1]
    items: ItemsNote
    prompt: NotRequired[dict[str, Any]]
    shard: NotRequired[str]
    contradictory: NotRequired[Literal["first"]]
    methods: dict[str, dict[str, Any]]


def read_run(folder: Path, *, remedy: str = REMEDY) -> dict[str, Any]:
    """What `run.json` of a folder says."""
    return dict(read_record(RunSettings, folder / RUN, remedy=remedy))


@dataclass(frozen=True, slots=True)
class Part:
    """One method with one seed: what one file of records holds."""

    method: str
    seed: int | None = None  # None: the first seed of the run, or the method draws nothing

    @property
    def name(self) -> str:
        """What `run.json` calls it."""
        return self.method if self.seed is None else f"seed-{self.seed}/{self.method}"

    @classmethod
    def named(cls, name: str) -> Part:
        """The part that `run.json` calls by this name. Raises S2TError for anything else."""
        found = re.fullmatch(r"(?:seed-(\d+)/)?([^/]+)", name)
        if found is None:
            raise S2TError(f"{name!r} in {RUN} names no method; {REMEDY}")
        return cls(found[2], None if found[1] is None else int(found[1]))

    def path(self, out: Path) -> Path:
        """The file of its records in a folder."""
        folder = out if self.seed is None else out / f"seed-{self.seed}"
        return folder / f"records-{self.method}.jsonl"


@dataclass(frozen=True, slots=True)
class Shard:
    """Share `index` (from 1) of `count` of the items: every `count`-th one, so that each share holds all domains."""

    index: int
    count: int

    def __str__(self) -> str:
        """As the flag gives it."""
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "1/4". Raises S2TError for anything else."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise S2TError(f"a shard is i/n with i from 1 to n, for example 1/4, got {text!r}")
        return cls(int(index), int(count))

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The share. Raises S2TError if there are fewer items than shards."""
        if len(items) < self.count:
            raise S2TError(f"{len(items)} items cannot be divided into {self.count} shards; use fewer")
        return list(items[self.index - 1 :: self.count])


def begin(out: Path, run: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Write down what decides the answers: of the whole run, and by name of each part.

    Raises S2TError if the folder was begun with something else, or for methods with another SLM or other limits.
    """
    path = out / RUN
    if (out / "manifest.json").exists():
        raise S2TError(f"{out} holds a collection; name another folder")
    before: dict[str, Any] = {}
    if path.exists():
        begun = read_run(out, remedy="name another folder, or delete this one")
        before = begun.pop("methods")
        require_same_run(out, begun, run)
        require_same_settings(out, shared(before), shared(parts))
    for name in before.keys() & parts.keys():
        require_same_settings(out, {name: before[name]}, {name: parts[name]})
    if not path.exists() or not parts.keys() <= before.keys():
        write_json_atomic(path, {**run, "methods": before | dict(parts)})


def shared(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What the methods have in common; only further seeds have another one."""
    first: Mapping[str, Any] = next((of for name, of in parts.items() if Part.named(name).seed is None), {})
    decode = {name: value for name, value in first.get("decode", {}).items() if name in SHARED_DECODING}
    return {**{name: first[name] for name in SHARED if name in first}, "decode": decode}


def resumed(
    path: Path, items: Sequence[Item], answer: Callable[[Sequence[Item]], Iterator[ItemRecord]]
) -> Iterator[int]:
    """Store the record of every item, those that `answer` makes of the items that are not stored yet as they finish;
    all stand in the file `path` at the end. Yields how many are stored, first those of before.

    Raises S2TError for records that are broken or not about `items`.
    """
    make_folder(path.parent)
    part = path.with_name(path.name + ".part")
    if path.exists():
        part.unlink(missing_ok=True)  # left by a kill between the two files
        yield len(checked(read_records(path), path, items, complete=True))
        return
    with Journal(part, ItemRecord) as journal:
        records = {record.id: record for record in checked(journal.records, journal.path, items)}
        if records:
            yield len(records)
        for record in answer([item for item in items if item.id not in records]):
            journal.append(record.to_json())
            records[record.id] = record
            yield len(records)
        write_jsonl_atomic(path, (records[item.id].to_json() for item in items))
        journal.remove()


def require_same_pair(out: Path, models: Mapping[str, str]) -> None:
    """Raise S2TError if `out` holds a run of other models than those of these fingerprints, by role."""
    for settings in read_run(out)["methods"].values() if (out / RUN).exists() else ():
        before = {role: settings[role] for role in models if role in settings}
        require_same_settings(out, before, {role: models[role] for role in before})


def other_settings(out: Path, mine: Collection[str], config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By part of the run that is not `mine` but an earlier command's, what neither mine nor `config` has."""
    parts = {name: given(of, "scorer" in of) for name, of in read_run(out)["methods"].items()}
    now = [given(config, True), *(parts[name] for name in mine)]
    told = {
        part: {name: value for name, value in settings.items() if all(other.get(name) != value for other in now)}
        for part, settings in parts.items()
    }
    return {part: others for part, others in told.items() if others}


def given(settings: Mapping[str, Any], scored: bool) -> dict[str, Any]:
    """What a method was given, of all kinds together; what only a scorer looks at is left out where there is none."""
    found = {name: value for group in ("decode", "select", "mentor") for name, value in settings.get(group, {}).items()}
    return found if scored else {name: found[name] for name in found.keys() - {"scorer_mode", "score"}}


def finished_parts(out: Path) -> dict[str, list[Part]]:
    """By method, in the order in which they were begun, the parts whose records are complete."""
    found: dict[str, list[Part]] = {}
    for name in read_run(out)["methods"]:
        part = Part.named(name)
        if part.path(out).exists():
            found.setdefault(part.method, []).append(part)
    return found


def tabulate(out: Path, *, baseline: str, prices: PriceConfig) -> tuple[ResultRow, ...]:
    """The rows of a run, method by method (one at a time in memory), compared with the baseline."""
    rows, found = [], {}
    for method, parts in finished_parts(out).items():
        records = [read_records(part.path(out)) for part in parts]
        rows += summarise(method, records, prices)
        found[method] = outcomes(records)
    return tuple(compared(rows, found, baseline))


def remarks(rows: Iterable[ResultRow]) -> list[str]:
    """What a person must be told beside the rows: prompts that did not fit, an LLM that did not answer."""
    whole = [row for row in rows if row.domain == "all"]
    said = [
        f"{row.method}: the LLM was not reached {row.llm_failures} times; there the SLM went on alone"
        for row in whole
        if row.llm_failures
    ]
    most = max(whole, key=lambda row: row.prompts_too_long or 0)
    if most.prompts_too_long:
        said.append(
            f"{most.prompts_too_long} of {most.n} prompts do not fit the context beside the longest answer; they were "
            "not asked and count as wrong"
        )
    return said


def checked(
    records: list[ItemRecord], path: Path, items: Sequence[Item], *, complete: bool = False
) -> list[ItemRecord]:
    """`records`, if they are about `items` and none stands twice; else S2TError."""
    ids = [record.id for record in records]
    known = {item.id for item in items}
    if len(set(ids)) < len(ids) or not known.issuperset(ids) or (complete and len(ids) < len(known)):
        raise S2TError(f"{path} does not hold the items of this run once each; delete it and run the command again")
    return records
