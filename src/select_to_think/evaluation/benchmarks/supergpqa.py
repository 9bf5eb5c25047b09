"""SuperGPQA: graduate-level questions of 285 fields with up to ten choices (M-A-P Team 2025); evaluation only."""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import CHOOSE, Benchmark, Row, Split, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `m-a-p/SuperGPQA`; its only split is called train."""
    return record(
        f"supergpqa/test/{row['uuid']}",
        row["question"],
        row["answer_letter"],
        "choice",
        choices=row["options"],
        subject=row["discipline"],
        meta={"field": row["field"], "difficulty": row["difficulty"]},
    )


BENCHMARK = Benchmark(
    name="supergpqa",
    answer_type="choice",
    prompt=CHOOSE,
    splits={"test": Split("test", "train", ("supergpqa", "supergpqa_test"))},
    to_record=to_record,
    hub="m-a-p/SuperGPQA",
    revision="4430d4458112c7d4497fdcf94d7cc223313d6acf",
    solution="The answer is ({answer}).",
)
