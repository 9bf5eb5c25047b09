"""AIME 2024: 30 problems whose answers are integers from 0 to 999. One item is 3.3 points: report several seeds."""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import STEP_BY_STEP, Benchmark, Row, Split, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `HuggingFaceH4/aime_2024`; answers may have leading zeros."""
    return record(f"aime24/test/{row['id']}", row["problem"], str(int(row["answer"])), "number")


BENCHMARK = Benchmark(
    name="aime24",
    answer_type="number",
    prompt=STEP_BY_STEP,
    splits={"test": Split("test", "train", ("aime24", "aime24_test", "aime_2024"))},
    to_record=to_record,
    hub="HuggingFaceH4/aime_2024",
    revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
)
