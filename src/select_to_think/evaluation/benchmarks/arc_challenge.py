"""ARC-Challenge: grade-school science questions (Clark et al. 2018). The train split may be trained on."""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import CHOOSE, Benchmark, Row, Split, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `allenai/ai2_arc`; labels are letters, or in some rows the digits 1-5, which become letters."""
    label = row["answerKey"]
    answer = chr(65 + list(row["choices"]["label"]).index(label))
    meta = {"source_label": label} if label.isdigit() else None
    id = f"arc_challenge/{split}/{row['id']}"
    return record(id, row["question"], answer, "choice", choices=row["choices"]["text"], meta=meta)


BENCHMARK = Benchmark(
    name="arc-challenge",
    answer_type="choice",
    prompt=CHOOSE,
    splits={
        "test": Split("test", "test", ("arc_challenge_test",)),
        "dev": Split("test", "validation", ("arc_challenge_dev",)),
        "train": Split("train", "train", ("arc_challenge_train",)),
    },
    to_record=to_record,
    hub="allenai/ai2_arc",
    config="ARC-Challenge",
    revision="210d026faf9955653af8916fad021475a3f00453",
    solution="The answer is ({answer}).",
)
