"""Ways to answer, tried on both halves of the questions, and counted over all of them.

Whatever a half is answered with was made from the other half: thresholds, and in `probes.py` what is trained. So every
question is held out, and each counts once.

Non-goals: decoding and grading (`evaluation/runner.py`), training (`probes.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from select_to_think.advice.document import Kind, Way
from select_to_think.config import EvalSettings, SelectConfig
from select_to_think.evaluation.items import Item, question_key
from select_to_think.evaluation.meter import Meter
from select_to_think.evaluation.metrics import compared, outcomes, summarise
from select_to_think.evaluation.results import ItemRecord, ResultRow, read_records
from select_to_think.evaluation.run_folder import Part
from select_to_think.evaluation.runner import evaluate
from select_to_think.methods import find_method
from select_to_think.structures import Progress
from select_to_think.triggers.calibration import Calibration

if TYPE_CHECKING:
    from select_to_think.session import Session

Records = list[ItemRecord]
Half = tuple[Sequence[Item], Calibration]  # questions, and the thresholds of the other half


@dataclass(frozen=True)
class Trial:
    """One way to answer. `folders`: for each half, what was trained for it, by the name of its setting."""

    name: str
    method: str
    select: SelectConfig = SelectConfig()
    kind: Kind = "measured"
    folders: Sequence[Mapping[str, str]] = field(default=({}, {}))
    learns: str = ""  # what is trained: `distill`, or the mode of a scorer
    trained_on: int | None = None
    ceiling: str | None = None

    @property
    def uses(self) -> str:
        """The setting that names what was trained."""
        return str(find_method(self.method).uses)

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-")


def in_halves(items: Iterable[Item]) -> tuple[list[Item], list[Item]]:
    """Two halves of every domain, by the hashes of the questions: the same ones whatever their order."""
    domains: dict[str, list[Item]] = {}
    for item in items:
        domains.setdefault(item.domain, []).append(item)
    ordered = [item for own in domains.values() for item in sorted(own, key=question_key)]
    return ordered[::2], ordered[1::2]


def at(budget: float) -> str:
    """A trigger budget as the names of ways have it."""
    return f"@ {100 * budget:g} %"


def tried(
    session: Session, halves: Sequence[Half], trial: Trial, settings: EvalSettings, out: Path, progress: Progress | None
) -> Records:
    """The records of every item by one way, in the order of `halves`; what `out` holds is not answered again."""
    records: Records = []
    meter = Meter({number: len(items) for number, (items, _) in enumerate(halves)}, progress)
    for number, (items, calibration) in enumerate(halves):
        folder = out / f"half-{number + 1}" / trial.folder
        with session.using(calibration, **trial.folders[number]):
            asked = replace(settings, select=trial.select)
            evaluate(session, items, [trial.method], asked, out=folder, progress=meter.part(number))
        records += read_records(Part(trial.method).path(folder))
    return records


def counted(trial: Trial, records: Records, baseline: Records, settings: EvalSettings) -> tuple[list[ResultRow], Way]:
    """The rows of a way by domain, compared with the baseline, and the way over all items."""
    rows = summarise(trial.method, [records], settings.prices)
    found = {trial.method: outcomes([records]), settings.baseline: outcomes([baseline])}
    rows = compared(rows, found, settings.baseline)
    by_domain = {row.domain: row.accuracy for row in rows[:-1]}
    return rows, Way(trial.name, trial.kind, rows[-1], by_domain, trial.trained_on, trial.ceiling)


def graded_by_llm(items: Sequence[Item], records: Sequence[ItemRecord]) -> list[Item]:
    """The items whose answers the LLM's records give, with these as their answers."""
    found = {record.id: record.extracted for record in records if record.finish_reason == "stop"}
    return [replace(item, answer=answer) for item in items if (answer := found.get(item.id)) is not None]


def agreeing(records: Sequence[ItemRecord], items: Sequence[Item]) -> Records:
    """The LLM's own records where its answers are the right ones, in the order of the items."""
    by_id = {record.id: record for record in records}
    return [replace(by_id[item.id], answer=item.answer, right=True) for item in items]
