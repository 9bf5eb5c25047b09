"""GSM8K: grade-school word problems (Cobbe et al. 2021). The train split may be used for calibration and training."""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import STEP_BY_STEP, Benchmark, Row, Split, integer, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `openai/gsm8k`: the gold stands behind `####` at the end of the worked answer."""
    answer = integer(row["answer"].split("####")[1])
    return record(f"gsm8k/{split}/{index}", row["question"], answer, "number")


BENCHMARK = Benchmark(
    name="gsm8k",
    answer_type="number",
    prompt=STEP_BY_STEP,
    splits={
        "test": Split("test", "test", ("gsm8k_test",)),
        "train": Split("train", "train", ("gsm8k_train",)),
    },
    to_record=to_record,
    hub="openai/gsm8k",
    config="main",
    revision="740312add88f781978c0658806c59bc2815b9866",
)
