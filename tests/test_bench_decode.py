"""`s2t bench decode`: what is timed side by side says the same."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from select_to_think.cli import app
from select_to_think.cli.bench import validation_questions
from select_to_think.config import BenchConfig
from select_to_think.evaluation.bench import NAMES, mentor_contenders
from select_to_think.evaluation.items import load_pair_split
from select_to_think.evaluation.timing import Cost, table
from select_to_think.session import Session
from select_to_think.structures import S2TError


def test_mentor_free_writes_what_its_plain_reference_writes() -> None:
    session = Session.load()
    questions = [item.question for item in load_pair_split("validation", limit_per_domain=1)][:2]
    contenders = mentor_contenders(session, BenchConfig(new_tokens=40), 1, questions)
    assert list(contenders) == ["mentor-free", "mentor-free-plain"] and set(contenders) < set(NAMES)
    timed = {name: [run()] for name, run in contenders.items()}
    timed["greedy"] = timed["mentor-free"]
    rows = {row["name"]: row for row in table("pair", 1, 100, timed)}
    assert rows["mentor-free"]["same_text"] is True and rows["greedy"]["same_text"] is None
    assert rows["mentor-free"]["new_tokens"] == rows["mentor-free-plain"]["new_tokens"] == 80
    assert 0 < rows["mentor-free"]["llm_forwards_per_token"] < rows["mentor-free-plain"]["llm_forwards_per_token"]


def test_the_pair_answers_an_equal_share_of_each_domain() -> None:
    whole = {item.question: item.domain for item in load_pair_split("validation")}
    for count in (1, 2, 12, 240, len(whole)):
        questions = validation_questions(count)
        shares = Counter(whole[question] for question in questions)
        assert len(set(questions)) == len(questions) == count
        assert count % 3 or set(shares.values()) == {count // 3}
    with pytest.raises(S2TError, match="200"):
        validation_questions(len(whole) + 1)


def test_nothing_to_time_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["bench", "decode", "--slm-shape", "none", "--questions", "0"]) == 2
    assert "nothing to time" in capsys.readouterr().err


def test_forwards_of_the_whole_batch_are_counted(capfd: pytest.CaptureFixture[str]) -> None:
    """The command of docs/performance.md, with fewer questions."""
    command = "bench decode --slm-shape none --questions 24 --batch 32 --repeats 1 --bench-budget 0.03 --json --names"
    assert app.main([*command.split(), "s2t-local-activated,s2t-kl,llm"]) == 0
    rows = {row["name"]: row for row in json.loads(capfd.readouterr().out)["rows"]}
    made = {name: (row["slm_batch_forwards"], row["llm_batch_forwards"]) for name, row in rows.items()}
    (greedy, none), (local, nothing) = made["greedy"], made["s2t-local-activated"]
    assert greedy and local <= 1.02 * greedy + 1 and none == nothing == 0
    assert made["llm"][0] == 0 < made["s2t-kl"][1] < made["llm"][1] / 2 < made["s2t-kl"][0]


def test_ratios_compare_within_a_round() -> None:
    slow, fast = [1.0, 4.0, 2.0], [1.0, 2.0, 1.5]
    timed = {"greedy": [Cost(x, 10) for x in slow], "maj@8": [Cost(x, 10) for x in fast]}
    row = table("pair", 1, 100, timed)[1]
    assert row["seconds"] == 1.5
    assert [row[key] for key in ("ratio_low", "ratio_to_greedy", "ratio_high")] == pytest.approx([0.5, 0.75, 1.0])
