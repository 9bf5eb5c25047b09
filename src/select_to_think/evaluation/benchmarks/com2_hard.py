"""Com2-hard: complex commonsense reasoning. Not public when this was written: a local file in our schema only."""

from __future__ import annotations

from select_to_think.evaluation.benchmarks.base import CHOOSE, Benchmark, Split

BENCHMARK = Benchmark(
    name="com2-hard",
    answer_type="choice",
    prompt=CHOOSE,
    splits={"test": Split("test", None, ("com2_hard", "com2_hard_test"))},
    solution="The answer is ({answer}).",
)
