"""MMLU-Pro: questions of 14 subjects with up to ten choices (Wang et al. 2024).

A local folder may hold the whole test split (`mmlu_pro_test`) or a sample of 100 per subject (`mmlu_pro_1400`).
"""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import CHOOSE, Benchmark, Row, Split, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `TIGER-Lab/MMLU-Pro`; older rows fill missing choices with "N/A"."""
    choices = [choice for choice in row["options"] if choice != "N/A"]
    return record(
        f"mmlu_pro/{split}/{row['question_id']}",
        row["question"],
        row["answer"],
        "choice",
        choices=choices,
        subject=row["category"],
        meta={"src": row["src"]},
    )


BENCHMARK = Benchmark(
    name="mmlu-pro",
    answer_type="choice",
    prompt=CHOOSE,
    splits={"test": Split("test", "test", ("mmlu_pro_test", "mmlu_pro", "mmlu_pro_1400"))},
    to_record=to_record,
    hub="TIGER-Lab/MMLU-Pro",
    revision="527feea0afed1de15a8c115abf7be4c912123315",
    solution="The answer is ({answer}).",
)
