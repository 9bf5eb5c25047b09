"""AQuA: algebraic word problems with five choices (Ling et al. 2017). The train split may be trained on."""

from __future__ import annotations

import re
from typing import Any

from select_to_think.evaluation.benchmarks.base import CHOOSE, Benchmark, Row, Split, record

_LABEL = re.compile(r"^\s*[A-E]\s*\)\s*")


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `deepmind/aqua_rat`; each option begins with its letter ("A)21")."""
    choices = [_LABEL.sub("", option) for option in row["options"]]
    return record(f"aqua/{split}/{index}", row["question"], row["correct"], "choice", choices=choices)


BENCHMARK = Benchmark(
    name="aqua",
    answer_type="choice",
    prompt=CHOOSE,
    splits={
        "test": Split("test", "test", ("aqua_test",)),
        "train": Split("train", "train", ("aqua_train",)),
    },
    to_record=to_record,
    hub="deepmind/aqua_rat",
    config="raw",
    revision="33301c6a050c96af81f63cad5562cb5363e88971",
    solution="The answer is ({answer}).",
)
