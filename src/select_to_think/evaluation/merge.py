"""Joining the folders of a run that was divided by `--shard`, into the folder that the undivided run would have left.

Non-goals: joining runs with other items, methods or settings (that is a comparison: `s2t compare`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from select_to_think.config import PriceConfig
from select_to_think.evaluation.items import require_same_run
from select_to_think.evaluation.results import RESULTS, ItemRecord, Results, load_results, read_records
from select_to_think.evaluation.run_folder import Part, Shard, begin, read_run, remarks, tabulate
from select_to_think.files import make_folder, only_writer, parse_record, write_jsonl_atomic
from select_to_think.structures import S2TError

REMEDY = "name the folders that `s2t eval --shard I/N --out FOLDER` wrote"


@dataclass(frozen=True)
class Counting:
    """The settings of a run by which its records are counted."""

    baseline: str
    prices: PriceConfig


def merge(folders: Sequence[Path], out: Path) -> Results:
    """Write records, settings and results of all shards together into `out`; a repetition changes nothing.

    Raises S2TError for folders that are no finished shards of one run, each once, and for an `out` of another run.
    """
    shards, run, parts = read_shards(folders)
    finished = [load_results(folder / RESULTS) for folder in shards]
    about = finished[0].provenance
    config = {name: value for name, value in about.get("config", {}).items() if name != "shard"}
    asked = json.dumps({name: config.get(name) for name in ("baseline", "prices")}).encode()
    counting = parse_record(Counting, asked, f"the config in {shards[0] / RESULTS}", remedy=REMEDY)
    with only_writer(out):
        begin(out, run, parts)
        for part in map(Part.named, parts):
            records = interleaved([read_records(part.path(folder)) for folder in shards])
            if len(records) != run["items"]["count"] or len({record.id for record in records}) != len(records):
                raise S2TError(f"the shards do not hold every item once for {part.name}; {REMEDY}")
            make_folder(part.path(out).parent)
            write_jsonl_atomic(part.path(out), (record.to_json() for record in records))
        rows = tabulate(out, baseline=counting.baseline, prices=counting.prices)
        own = remarks(finished[0].rows)
        notes = [note for note in about.get("notes", []) if note not in own] + remarks(rows)
        results = Results(rows, {**about, "config": config, "notes": notes})
        results.save(out / RESULTS)
    return results


def read_shards(folders: Sequence[Path]) -> tuple[list[Path], dict[str, Any], Mapping[str, Any]]:
    """The folders in order of their shards, the settings of the undivided run, and those of its parts.

    Raises S2TError as `merge` does.
    """
    found: dict[Shard, Path] = {}
    runs = {}
    for folder in folders:
        run = read_run(folder, remedy=REMEDY)
        if "shard" not in run:
            raise S2TError(f"{folder} is not a shard but a whole run; {REMEDY}")
        shard = Shard.parse(run.pop("shard"))
        if shard in found:
            raise S2TError(f"{found[shard]} and {folder} both hold shard {shard}; name each shard once")
        found[shard], runs[folder] = folder, run
    if not found:
        raise S2TError(f"nothing to merge; {REMEDY}")
    first, *others = runs.items()
    for folder, run in others:
        require_same_run(folder, run, first[1])
    counts = {shard.count for shard in found}
    if len(counts) > 1:
        raise S2TError(f"the runs were divided into {' and '.join(map(str, sorted(counts)))} shards; {REMEDY} of one N")
    wanted = [Shard(index + 1, count) for count in counts for index in range(count)]
    missing = [str(shard) for shard in wanted if shard not in found]
    if missing:
        raise S2TError(f"shard {', '.join(missing)} is missing; name the folders of all {len(wanted)} shards")
    shards = [found[shard] for shard in wanted]
    parts = first[1].pop("methods")
    for folder in shards:
        if not all(Part.named(name).path(folder).exists() for name in parts):
            raise S2TError(f"the shard in {folder} is unfinished; run its `s2t eval` command again")
    return shards, first[1], parts


def interleaved(shards: Sequence[Sequence[ItemRecord]]) -> list[ItemRecord]:
    """The records in the order of the undivided run: item k is in shard k mod n, at place k div n."""
    return [record for row in zip_longest(*shards) for record in row if record is not None]
