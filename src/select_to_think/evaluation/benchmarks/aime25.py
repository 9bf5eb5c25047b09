"""AIME 2025: 30 problems whose answers are integers from 0 to 999. One item is 3.3 points: report several seeds."""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import STEP_BY_STEP, Benchmark, Row, Split, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `math-ai/aime25`; answers may carry a degree sign or leading zeros."""
    answer = str(int("".join(character for character in str(row["answer"]) if character.isdigit())))
    return record(f"aime25/test/{row['id']}", row["problem"], answer, "number")


BENCHMARK = Benchmark(
    name="aime25",
    answer_type="number",
    prompt=STEP_BY_STEP,
    splits={"test": Split("test", "test", ("aime25", "aime25_test", "aime_2025"))},
    to_record=to_record,
    hub="math-ai/aime25",
    revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
)
