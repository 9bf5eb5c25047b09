"""StrategyQA: yes/no questions that need several facts (Geva et al. 2021). The test labels are not public.

The authors' repository divides the labelled questions into train (2061) and dev (229); the hub's data set divides the
same 2290 questions into train (1603) and test (687). The questions and the ids behind the split's name are the same,
the split is not: never train on one division and evaluate on the other (the overlap check refuses it).
"""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import YES_OR_NO, Benchmark, Row, Split, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `ChilleD/StrategyQA`."""
    return record(f"strategyqa/{split}/{row['qid']}", row["question"], "yes" if row["answer"] else "no", "bool")


BENCHMARK = Benchmark(
    name="strategyqa",
    answer_type="bool",
    prompt=YES_OR_NO,
    splits={
        "dev": Split("test", "test", ("strategyqa_dev",)),
        "train": Split("train", "train", ("strategyqa_train",)),
    },
    default_split="dev",
    to_record=to_record,
    hub="ChilleD/StrategyQA",
    revision="705562638fe1d8ca6bb98c66fc8f94d45fda8c83",
)
