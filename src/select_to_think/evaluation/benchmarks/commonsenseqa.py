"""CommonsenseQA (Talmor et al. 2019). The test labels are not public: the dev split is what is evaluated."""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import CHOOSE, Benchmark, Row, Split, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `tau/commonsense_qa`."""
    answer = chr(65 + list(row["choices"]["label"]).index(row["answerKey"]))
    id = f"commonsenseqa/{split}/{row['id']}"
    return record(
        id, row["question"], answer, "choice", choices=row["choices"]["text"], subject=row["question_concept"]
    )


BENCHMARK = Benchmark(
    name="commonsenseqa",
    answer_type="choice",
    prompt=CHOOSE,
    splits={
        "dev": Split("test", "validation", ("commonsenseqa_dev",)),
        "train": Split("train", "train", ("commonsenseqa_train",)),
    },
    default_split="dev",
    to_record=to_record,
    hub="tau/commonsense_qa",
    revision="94630fe30dad47192a8546eb75f094926d47e155",
    solution="The answer is ({answer}).",
)
