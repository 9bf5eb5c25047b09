"""OlympiadBench: English open-ended competition mathematics without pictures (He et al. 2024)."""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import STEP_BY_STEP, Benchmark, Row, Split, record


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `Hothan/OlympiadBench`, configuration OE_TO_maths_en_COMP."""
    answer = row["final_answer"][0].strip()
    if answer.startswith("$") and answer.endswith("$") and answer.count("$") == 2:
        answer = answer[1:-1].strip()
    meta: dict[str, Any] = {"kind": row["answer_type"]}
    if row["is_multiple_answer"]:
        meta["multiple"] = True
    if row.get("unit"):
        meta["unit"] = row["unit"]
    if row.get("error"):
        meta["tolerance"] = str(row["error"])
    id = f"olympiadbench/oe_to_maths_en/{row['id']}"
    return record(id, row["question"], answer, "math", subject=row["subfield"], meta=meta)


BENCHMARK = Benchmark(
    name="olympiadbench",
    answer_type="math",
    prompt=STEP_BY_STEP,
    splits={"test": Split("test", "train", ("olympiadbench_maths_en",))},
    to_record=to_record,
    hub="Hothan/OlympiadBench",
    config="OE_TO_maths_en_COMP",
    revision="91184b52131e7fc9455fef848035173aea8cc01a",
)
