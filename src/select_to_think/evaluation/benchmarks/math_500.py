"""MATH-500: 500 competition problems out of the MATH test set (Hendrycks et al. 2021; Lightman et al. 2023)."""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import STEP_BY_STEP, Benchmark, Row, Split, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `HuggingFaceH4/MATH-500`; its `unique_id` is the file of the original data set."""
    id = f"math_500/{row['unique_id'].removesuffix('.json')}"
    return record(id, row["problem"], row["answer"], "math", subject=row["subject"], meta={"level": row["level"]})


BENCHMARK = Benchmark(
    name="math-500",
    answer_type="math",
    prompt=STEP_BY_STEP,
    splits={"test": Split("test", "test", ("math_500", "math_500_test"))},
    to_record=to_record,
    hub="HuggingFaceH4/MATH-500",
    revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
)
