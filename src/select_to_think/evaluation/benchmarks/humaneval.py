"""HumanEval: 164 Python functions with tests (Chen et al. 2021). Grading runs the model's code: see `grading.code`."""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import COMPLETE, Benchmark, Row, Split, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `openai/openai_humaneval`; `task_id` is "HumanEval/0"."""
    meta = {"entry_point": row["entry_point"], "test": row["test"]}
    id = f"humaneval/test/{row['task_id'].split('/')[1]}"
    return record(id, row["prompt"], row["canonical_solution"], "code", meta=meta)


BENCHMARK = Benchmark(
    name="humaneval",
    answer_type="code",
    prompt=COMPLETE,
    splits={"test": Split("test", "test", ("humaneval",))},
    to_record=to_record,
    hub="openai/openai_humaneval",
    revision="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
    solution="```python\n{answer}\n```",
)
