"""Runs methods over items: batched through the session, resumable after a kill, files in item order.

While a method runs, each finished item is appended to `records-METHOD.jsonl.part` in order of finishing. When all are
there, `records-METHOD.jsonl` is written in item order and the part file goes. A rerun of the same command reads both,
so nothing is decoded twice; a folder that was begun with other settings, models or items is refused.

Non-goals: statistics over rows, and loading data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from select_to_think.config import DecodeConfig, SelectConfig
from select_to_think.evaluation.grading import extract
from select_to_think.evaluation.items import Item, assert_unique, assert_unseen, items_digest
from select_to_think.evaluation.metrics import summarise
from select_to_think.evaluation.results import (
    RESULTS,
    SCHEMA,
    ItemRecord,
    ResultRow,
    Results,
    load_results,
    provenance,
    read_records,
    record_from_json,
)
from select_to_think.evaluation.settings import has_trigger, is_calibrated, method_settings
from select_to_think.evaluation.tracing import make_record
from select_to_think.files import (
    Journal,
    only_writer,
    read_json,
    require_same_settings,
    write_json_atomic,
    write_jsonl_atomic,
)
from select_to_think.policies.table import parse_method
from select_to_think.structures import Progress, S2TError
from select_to_think.triggers.calibration import Calibration

if TYPE_CHECKING:
    from select_to_think.session import Session

RUN = "run.json"


def evaluate(
    session: Session,
    items: Sequence[Item],
    methods: Sequence[str],
    decode: DecodeConfig = DecodeConfig(),
    select: SelectConfig = SelectConfig(),
    *,
    out: Path | None = None,
    progress: Progress | None = None,
    allow_code_execution: bool = False,
) -> Results:
    """Answer every item by every method and count.

    With `out`, records and `results.json` go there, and a run that was killed goes on where it stopped; methods that
    were finished in that folder before stay in its results. `progress` counts (item, method) pairs.

    Raises S2TError for an unknown method, items that the triggers were calibrated on, code items without
    `allow_code_execution`, and a folder that was begun with other settings or cannot be written.
    """
    methods = list(dict.fromkeys(methods))
    check(session, items, methods, decode, select, allow_code_execution=allow_code_execution)
    config = {"methods": methods, "decode": asdict(decode), "select": asdict(select)}
    about = provenance(session, config, seeds=[decode.seed])
    rows: list[ResultRow] = []
    with ExitStack() as stack:
        if out is not None:
            stack.enter_context(only_writer(out))
            begin(out, session, items, methods, decode, select)
        for number, method in enumerate(methods):
            records: dict[str, ItemRecord] = {}
            for record in method_records(
                session, items, method, decode, select, out=out, allow_code_execution=allow_code_execution
            ):
                records[record.id] = record
                if progress:
                    progress(number * len(items) + len(records), len(methods) * len(items))
            rows += summarise(method, [[records[item.id] for item in items]], triggered=has_trigger(method))
        if out is None:
            return Results(tuple(rows), about)
        results = Results((*earlier_rows(out, methods), *rows), about)
        results.save(out / RESULTS)
    return results


def check(
    session: Session,
    items: Sequence[Item],
    methods: Sequence[str],
    decode: DecodeConfig,
    select: SelectConfig,
    *,
    allow_code_execution: bool = False,
) -> None:
    """Raise S2TError for what would be found only after decoding: see `evaluate`."""
    assert_unique(items)
    if not methods:
        raise S2TError("no method to evaluate; name some with --methods, for example greedy,s2t-local")
    for method in methods:
        parse_method(method)
    if not allow_code_execution and any(item.answer_type == "code" for item in items):
        raise S2TError("grading these items runs code that a model wrote; allow it with --allow-code-execution")
    for method in methods:
        session.policy(method, decode, select)
        if is_calibrated(method, select):
            assert_not_calibrated_on(items, session.calibration)


def assert_not_calibrated_on(items: Sequence[Item], calibration: Calibration) -> None:
    """Raise S2TError naming the items if thresholds were fitted to some of them, or if that cannot be known."""
    if len(calibration.question_keys) != len(calibration.item_ids):
        raise S2TError("the calibration does not say which questions it was made of; run `s2t calibrate` again")
    seen = dict(zip(calibration.question_keys, calibration.item_ids, strict=True))
    assert_unseen(items, seen, names=("calibration", "test"))


def begin(
    out: Path,
    session: Session,
    items: Sequence[Item],
    methods: Sequence[str],
    decode: DecodeConfig,
    select: SelectConfig,
) -> None:
    """Write down what decides the answers of this run, or raise S2TError if the folder holds another run."""
    path = out / RUN
    run: dict[str, Any] = {"schema": SCHEMA, "items": {"count": len(items), "sha256": items_digest(items)}}
    before: dict[str, Any] = {}
    if path.exists():
        begun = read_json(path, remedy="name another folder, or delete this one")
        before = begun.pop("methods", {})
        require_same_settings(out, begun, run)
    now = {method: method_settings(session, method, decode, select) for method in methods}
    for method in before.keys() & now.keys():
        require_same_settings(out, {method: before[method]}, {method: now[method]})
    if not now.keys() <= before.keys():
        write_json_atomic(path, {**run, "methods": before | now})


def earlier_rows(out: Path, methods: Sequence[str]) -> list[ResultRow]:
    """Rows of other methods that were finished in this folder before."""
    if not (out / RESULTS).exists():
        return []
    rows = load_results(out / RESULTS).rows
    return [row for row in rows if row.method not in methods and records_path(out, row.method).exists()]


def records_path(out: Path, method: str) -> Path:
    """The file with a method's records, one per item, in item order."""
    return out / f"records-{method}.jsonl"


def method_records(
    session: Session,
    items: Sequence[Item],
    method: str,
    decode: DecodeConfig,
    select: SelectConfig,
    *,
    out: Path | None,
    allow_code_execution: bool = False,
) -> Iterator[ItemRecord]:
    """Every item's record: those that are stored first, then the others as they finish (and are stored)."""
    if out is None:
        yield from answer(session, items, method, decode, select, allow_code_execution=allow_code_execution)
        return
    path = records_path(out, method)
    part = path.with_name(path.name + ".part")
    if path.exists():
        part.unlink(missing_ok=True)  # left by a kill between the two files
        yield from checked(read_records(path), path, items, complete=True)
        return
    with Journal(part) as journal:
        stored = [record_from_json(record) for record in journal.records]
        records = {record.id: record for record in checked(stored, journal.path, items)}
        yield from records.values()
        todo = [item for item in items if item.id not in records]
        for record in answer(session, todo, method, decode, select, allow_code_execution=allow_code_execution):
            journal.append(record.to_json())
            records[record.id] = record
            yield record
        write_jsonl_atomic(path, (records[item.id].to_json() for item in items))
        journal.remove()


def checked(
    records: list[ItemRecord], path: Path, items: Sequence[Item], *, complete: bool = False
) -> list[ItemRecord]:
    """`records`, if they are about `items` and none stands twice; else S2TError."""
    ids = [record.id for record in records]
    known = {item.id for item in items}
    if len(set(ids)) < len(ids) or not known.issuperset(ids) or (complete and len(ids) < len(known)):
        raise S2TError(f"{path} does not hold the items of this run once each; delete it and run the command again")
    return records


class SharedClock:
    """Splits wall time evenly among the items that are being decoded at each moment."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._last: float | None = now()
        self._share = 0.0  # seconds that an item would have got that has been there from the beginning
        self._started: dict[int, float] = {}

    def _advance(self) -> None:
        now = self._now()
        if self._last is not None and self._started:
            self._share += (now - self._last) / len(self._started)
        self._last = now

    def start(self, index: int) -> None:
        """An item joins."""
        self._advance()
        self._started[index] = self._share

    def finish(self, index: int) -> float:
        """An item leaves; its seconds. The clock stands until `resume`."""
        if self._last is not None:
            self._advance()
        self._last = None
        return self._share - self._started.pop(index)

    def resume(self) -> None:
        """Let the clock go on."""
        self._last = self._now()


def answer(
    session: Session,
    items: Sequence[Item],
    method: str,
    decode: DecodeConfig,
    select: SelectConfig,
    *,
    allow_code_execution: bool = False,
) -> Iterator[ItemRecord]:
    """Decode and grade `items`, as they finish. Loading and warming up, grading and writing are not timed."""
    if not items:
        return
    session.generate([items[0].question], method, replace(decode, max_new_tokens=1), select)
    clock = SharedClock()

    def questions() -> Iterator[str]:
        for index, item in enumerate(items):
            clock.start(index)
            yield item.question

    def vote(index: int, text: str) -> str | None:
        item = items[index]
        return extract(text, item.answer_type, choices=item.choices, meta=item.meta).extracted

    for index, generation in session.stream(questions(), method, decode, select, extract=vote):
        seconds = clock.finish(index)
        yield make_record(session, items[index], method, generation, seconds, allow_code_execution=allow_code_execution)
        clock.resume()
