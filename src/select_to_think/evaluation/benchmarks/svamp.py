"""SVAMP: 1000 varied one-step word problems (Patel et al. 2021); all of them are for evaluation.

The hub's data set divides them into train and test; here they are one test split, as in the authors' repository, whose
order differs: the items and ids are the same.
"""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import STEP_BY_STEP, Benchmark, Row, Split, integer, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `ChilleD/SVAMP`: the story, then the question."""
    body = row["Body"].strip()
    body += "" if body.endswith((".", "?", "!")) else "."
    subject = row["Type"].replace("Divison", "Division")
    return record(
        f"svamp/test/{row['ID']}",
        f"{body} {row['Question'].strip()}",
        integer(row["Answer"]),
        "number",
        subject=subject,
    )


BENCHMARK = Benchmark(
    name="svamp",
    answer_type="number",
    prompt=STEP_BY_STEP,
    splits={"test": Split("test", "train+test", ("svamp",))},
    to_record=to_record,
    hub="ChilleD/SVAMP",
    revision="5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
)
