"""`s2t bench decode`: what is timed side by side says the same."""

from __future__ import annotations

import pytest

from select_to_think.config import BenchConfig
from select_to_think.evaluation.bench import NAMES, mentor_contenders
from select_to_think.evaluation.items import load_pair_split
from select_to_think.evaluation.timing import Cost, table
from select_to_think.session import Session


def test_mentor_free_writes_what_its_plain_reference_writes() -> None:
    session = Session.load()
    questions = [item.question for item in load_pair_split("validation", limit_per_domain=1)][:2]
    contenders = mentor_contenders(session, BenchConfig(new_tokens=40), 1, questions)
    assert [contender.name for contender in contenders] == ["mentor-free", "mentor-free-plain"]
    assert {contender.name for contender in contenders} < set(NAMES)
    timed = {contender.name: [contender.run()] for contender in contenders}
    timed["greedy"] = timed["mentor-free"]
    rows = {row["name"]: row for row in table("pair", 1, 100, timed)}
    assert rows["mentor-free"]["same_text"] is True and rows["greedy"]["same_text"] is None
    assert rows["mentor-free"]["new_tokens"] == rows["mentor-free-plain"]["new_tokens"] == 80
    assert 0 < rows["mentor-free"]["llm_forwards_per_token"] < rows["mentor-free-plain"]["llm_forwards_per_token"]


def test_ratios_compare_within_a_round() -> None:
    slow, fast = [1.0, 4.0, 2.0], [1.0, 2.0, 1.5]
    timed = {"greedy": [Cost(x, 10) for x in slow], "maj@8": [Cost(x, 10) for x in fast]}
    row = table("pair", 1, 100, timed)[1]
    assert row["seconds"] == 1.5
    assert [row[key] for key in ("ratio_low", "ratio_to_greedy", "ratio_high")] == pytest.approx([0.5, 0.75, 1.0])
