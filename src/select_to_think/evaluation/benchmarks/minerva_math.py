"""Minerva Math: 272 university problems of science and mathematics (OCWCourses; Lewkowycz et al. 2022)."""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import STEP_BY_STEP, Benchmark, Row, Split, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `math-ai/minervamath`."""
    return record(f"minerva_math/test/{index}", row["question"], str(row["answer"]), "math")


BENCHMARK = Benchmark(
    name="minerva-math",
    answer_type="math",
    prompt=STEP_BY_STEP,
    splits={"test": Split("test", "test", ("minerva_math", "minerva_math_test"))},
    to_record=to_record,
    hub="math-ai/minervamath",
    revision="ee46ddc498933b1977577953250ca5c66be64f96",
)
