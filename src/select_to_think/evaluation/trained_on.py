"""Which questions something was trained or calibrated on, so that no test can hold one of them.

What is trained keeps the shortened `question_key`s of its questions beside its weights, and not their text: a scorer
that is given away gives no data away. A calibration names its items itself (`triggers/calibration.py`).

Non-goals: finding questions that are merely similar.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from select_to_think.evaluation.items import Item, assert_unseen, question_key
from select_to_think.files import read_record, write_json_atomic
from select_to_think.structures import S2TError
from select_to_think.triggers.calibration import Calibration

FILE = "trained_on.json"
SCHEMA = 1
KEY_LENGTH = 16  # hexadecimal digits: two sets of a million questions share one by chance with p < 1e-7


@dataclass(frozen=True)
class TrainedOn:
    """What the file holds."""

    schema: Literal[1]
    question_keys: list[str]


def write_trained_on(folder: Path, keys: Iterable[str]) -> None:
    """Write the `question_key`s of the training items, if they are known, into the folder of what was trained."""
    short = sorted({key[:KEY_LENGTH] for key in keys})
    if short:
        write_json_atomic(folder / FILE, {"schema": SCHEMA, "question_keys": short})


def assert_not_trained_on(items: Iterable[Item], folder: Path, *, purpose: str) -> bool:
    """Raise S2TError naming the items whose question what lies in `folder` was trained on.

    `purpose`: what the items are for, "test" or "calibration".
    Returns whether that is known: what was trained by older versions does not say.
    """
    if not (folder / FILE).exists():
        return False
    keys = frozenset(read_record(TrainedOn, folder / FILE, remedy="train it again").question_keys)
    seen = [item.id for item in items if question_key(item)[:KEY_LENGTH] in keys]
    if seen:
        names = ", ".join(seen[:5]) + (", ..." if len(seen) > 5 else "")
        raise S2TError(
            f"{folder.name} was trained on {len(seen)} of the {purpose} questions ({names}); use disjoint data"
        )
    return True


def assert_not_calibrated_on(items: Iterable[Item], calibration: Calibration, *, purpose: str) -> None:
    """Raise S2TError naming the items if thresholds were fitted to some of them, or if that cannot be known.

    `purpose`: what the items are for, "test" or "training".
    """
    if len(calibration.question_keys) != len(calibration.item_ids):
        raise S2TError("the calibration does not say which questions it was made of; run `s2t calibrate` again")
    seen = dict(zip(calibration.question_keys, calibration.item_ids, strict=True))
    assert_unseen(items, seen, names=("calibration", purpose))
