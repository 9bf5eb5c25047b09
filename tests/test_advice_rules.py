"""Halves, trials and the rules of the recommendation, on made-up questions and outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from analysis_run import row as made_row
from fake_session import DECODE, FakeSession, fake_items
from select_to_think.advice.advise import each_once
from select_to_think.advice.document import Advice, DivergenceRow, Recommendation, Way
from select_to_think.advice.probes import SCORES
from select_to_think.advice.recommend import either, recommend
from select_to_think.advice.settings import MODES, AdviseConfig
from select_to_think.advice.trials import Trial, agreeing, counted, graded_by_llm, in_halves, tried
from select_to_think.config import EvalSettings, PriceConfig
from select_to_think.evaluation.calibrate import calibrate
from select_to_think.evaluation.meter import Meter
from select_to_think.evaluation.results import ResultRow
from select_to_think.evaluation.statistics import paired_difference
from select_to_think.models.scorer import has_score
from select_to_think.structures import S2TError

SETTINGS = EvalSettings(DECODE)


def test_halves_divide_every_domain_and_do_not_depend_on_the_order() -> None:
    items = fake_items(31)
    halves = in_halves(items)
    shuffled = items[:]
    Random(1).shuffle(shuffled)
    again = in_halves(sorted(shuffled, key=lambda item: item.domain == "facts"))
    assert halves == again
    assert sorted(i.id for half in halves for i in half) == sorted(i.id for i in items)
    for domain in ("sums", "facts"):
        sizes = [sum(item.domain == domain for item in half) for half in halves]
        assert abs(sizes[0] - sizes[1]) <= 1


def test_a_half_is_answered_with_what_the_other_one_made(tmp_path: Path) -> None:
    halves = in_halves(fake_items(24))
    session: Any = FakeSession()
    calibrations = [calibrate(session, half, decode=DECODE) for half in halves]
    sides = list(zip(halves, calibrations[::-1], strict=True))
    seen: list[tuple[str, str, str | None]] = []
    stream = session.stream

    def watched(questions: Any, *arguments: Any, **named: Any) -> Any:
        asked = list(questions)
        seen.extend((q, " ".join(session.calibration.item_ids), session.config.distill) for q in asked)
        return stream(asked, *arguments, **named)

    session.stream = watched
    trial = Trial("s2t @ 3 %", "s2t", folders=({"distill": "for-first"}, {"distill": "for-second"}))
    counts: list[tuple[int, int]] = []
    records = tried(session, sides, trial, SETTINGS, tmp_path, lambda done, total: counts.append((done, total)))
    assert [record.id for record in records] == [item.id for half in halves for item in half]
    assert counts[-1] == (24, 24) and [done for done, _ in counts] == sorted(done for done, _ in counts)
    for number, half in enumerate(halves):
        for item in half:
            ids, folder = next((ids, folder) for question, ids, folder in seen if question == item.question)
            assert item.id not in ids.split() and set(ids.split()) == {i.id for i in halves[1 - number]}
            assert folder == ("for-first", "for-second")[number]
    assert session.config.distill is None and session.calibration.item_ids == ["c0"]
    answered = len(seen)
    assert tried(session, sides, trial, SETTINGS, tmp_path, None) == records and len(seen) == answered
    rows, way = counted(trial, records, records, SETTINGS)
    assert way.row == rows[-1] and way.row.n == 24 and way.gain.difference == 0
    assert way.by_domain == {row.domain: row.accuracy for row in rows[:-1]} and len(way.by_domain) == 2


def test_the_answers_of_the_llm_stand_in(tmp_path: Path) -> None:
    items = [replace(item, answer="") for item in fake_items(20)]
    halves = in_halves(items)
    session: Any = FakeSession()
    sides = [(half, session.calibration) for half in halves]
    records = tried(session, sides, Trial("llm", "llm"), SETTINGS, tmp_path, None)
    assert not any(record.right for record in records)
    cut = [replace(records[0], finish_reason="length"), replace(records[1], extracted=None), *records[2:]]
    graded = graded_by_llm([item for half in halves for item in half], cut)
    assert [item.id for item in graded] == [record.id for record in cut[2:]]
    assert [item.answer for item in graded] == [record.extracted for record in cut[2:]]
    right = agreeing(cut, graded[::-1])
    assert [r.id for r in right] == [item.id for item in graded[::-1]] and all(r.right for r in right)


GREEDY = [i % 2 for i in range(200)]  # half of them right


def better(share: float, base: Sequence[float] = GREEDY) -> list[float]:
    """The base, with the first wrong ones put right until a share is."""
    found, missing = list(map(float, base)), round(share * len(base)) - int(sum(base))
    for i in range(len(found)):
        if missing > 0 and not found[i]:
            found[i], missing = 1.0, missing - 1
    return found


def way(name: str, method: str, right: Sequence[float], kind: Any = "measured", **row: Any) -> Way:
    records = [
        {"right": bool(r), "tokens": 10, "seconds": 1.0, "fired": 0, "flips": 0, "steps": [], "finish_reason": "stop",
         "counts": {"llm_tokens_generated": 0, "llm_tokens_processed": 0, "llm_forwards": 0}}
        for r in right
    ]  # fmt: skip
    made = made_row(method, "all", records)
    paired = None if name == "greedy" else paired_difference(right, GREEDY)
    return Way(name, kind, ResultRow(**{**made, **row, "paired": paired}), {}, 100 if kind == "probe" else None, "llm")


def asking(forwards: float, money: float | None = None) -> dict[str, Any]:
    return {"llm_tokens_processed": 1000, "llm_forwards": round(200 * forwards), "money": money}


def decided(
    shares: dict[str, float],
    costs: dict[str, dict[str, Any]] | None = None,
    graded_by: Any = "answers",
    unprobed: Sequence[str] = (),
    truncated: int = 0,
) -> Recommendation:
    """The recommendation from accuracies; a name with a comma or `distill` is a probe."""
    right = {"greedy": list(map(float, GREEDY)), **{name: better(share) for name, share in shares.items()}}
    ways = []
    for name in right:
        method = name.partition(",")[0].partition(" ")[0]
        kind = "probe" if method in ("distill", "s2t-local") else "measured"
        row = {} if method == "greedy" or kind == "probe" else (costs or {}).get(name, asking(3))
        row = {**row, "truncated": truncated}
        ways.append(way(name, method, right[name], kind, **row))
    headroom = paired_difference(right.get("takeover @ 3 %", right["greedy"]), GREEDY)
    divergences = DivergenceRow("all", 200, 4000, 100, 5, 60, 10, 25)
    advice = Advice(
        graded_by=graded_by,
        candidates=8,
        n_items=200,
        domains=[],
        headroom=headroom,
        hit_at={"1": 0.25, "8": 0.97},
        main_budget=0.03,
        divergences=[divergences],
        recall=[],
        ways=ways,
        either=either([each for each in ways if each.kind == "probe"], right),
        recommendation=Recommendation("greedy", None, None, [], []),
        check=None,
        provenance={},
    )
    return recommend(advice, right, unprobed)


def test_the_cheapest_way_among_the_good_ones_asks_the_llm() -> None:
    shares = {"llm": 0.95, "takeover @ 3 %": 0.945, "s2t @ 3 %": 0.9}
    found = decided(shares, {"llm": asking(30), "takeover @ 3 %": asking(4), "s2t @ 3 %": asking(1)})
    assert found.with_llm == "takeover @ 3 %"  # s2t is cheaper, but loses more than a point
    dear = {"llm": asking(30, money=1.0), "takeover @ 3 %": asking(4, money=2.0)}
    assert decided(shares, dear).with_llm == "llm"  # where prices are known, they decide
    assert any("first choice in 25 % and among its first eight in 97 %" in reason for reason in found.reasons)
    assert any("60 % habits" in reason and "5 % not among" in reason for reason in found.reasons)


def test_without_an_llm_intervals_decide_and_the_simpler_way_wins_a_tie() -> None:
    clear = decided({"llm": 0.95, "distill": 0.65, "s2t-local, activated": 0.85})
    assert clear.without_llm == clear.train == "s2t-local, activated"
    tie = decided({"llm": 0.95, "distill": 0.84, "s2t-local, activated": 0.84})
    assert tie.train == "distill"
    assert decided({"llm": 0.95, "distill": 0.85, "s2t-local, coupled": 0.7}).train == "distill"


def test_nothing_is_recommended_that_does_not_clearly_gain() -> None:
    found = decided({"llm": 0.5, "distill": 0.505, "takeover @ 3 %": 0.5})
    assert (found.without_llm, found.with_llm, found.train) == ("greedy", None, None)
    assert any("not clear that the LLM" in reason for reason in found.reasons)
    assert any("No probe is clearly better" in reason for reason in found.reasons)


def test_uncertainty_names_what_was_not_tried_and_who_graded() -> None:
    found = decided({"llm": 0.9}, graded_by="llm", unprobed=["distill was not tried: no weights."])
    assert "distill was not tried: no weights." in found.uncertainty
    assert any("its own mistakes count as right" in line for line in found.uncertainty)
    assert any(line.startswith("200 questions") for line in found.uncertainty)


def test_answers_that_the_limit_ends_are_told() -> None:
    words = "150 of 200 answers of greedy and 150 of 200 answers of llm were cut off"
    assert any(line.startswith(words) for line in decided({"llm": 0.9}, truncated=150).uncertainty)
    assert not any("cut off" in line for line in decided({"llm": 0.9}).uncertainty)


def test_a_question_that_stands_twice_is_asked_once() -> None:
    once = fake_items(4)
    again = [replace(item, id=f"again-{item.id}") for item in once[:3]]
    assert each_once([*once, *again]) == (once, ["3 of 7 questions stand there a second time: they were left out"])
    assert each_once(once) == (once, [])


def test_what_either_gets_right_bounds_both() -> None:
    one, other = np.array(better(0.7)), np.array(better(0.7, GREEDY[::-1]))
    right = {"distill": one.tolist(), "s2t-local, proposer": other.tolist()}
    ways = [way(name, name.partition(",")[0], marks, "probe") for name, marks in right.items()]
    both = either(ways, right)
    assert both is not None and both.difference == pytest.approx(np.maximum(one, other).mean() - one.mean())
    assert both.losses == 0 and either(ways[:1], right) is None


@pytest.mark.parametrize("wrong", [{"budgets": "0,1"}, {"budgets": "much"}, {"budgets": ""}, {"modes": "coupld"}])
def test_settings_that_cannot_be_are_one_line(wrong: dict[str, str]) -> None:
    with pytest.raises(S2TError, match=r"budgets are fractions|did you mean 'coupled'"):
        AdviseConfig(**wrong)


def test_budgets_are_sorted_and_the_middle_one_leads() -> None:
    config = AdviseConfig(budgets="0.1, 0.01,0.03,0.03", modes="coupled,activated,coupled")
    assert config.tried_budgets == [0.01, 0.03, 0.1] and config.main_budget == 0.03
    assert config.tried_modes == ["coupled", "activated"]
    with pytest.raises(S2TError, match="no-probe"):
        AdviseConfig(train=True, probe=False)


def test_a_meter_never_falls_and_ends_at_the_whole() -> None:
    said: list[tuple[int, int]] = []
    meter = Meter({"a": 10, "b": 30, "c": 0}, lambda done, total: said.append((done, total)))
    for name in ("a", "b", "c"):
        for done in range(4):
            meter.part(name)(done, 3)
    assert said == sorted(said) and said[0] == (0, 40) and said[-1] == (40, 40) and (10, 40) in said


def test_prices_reach_the_ways(tmp_path: Path) -> None:
    settings = replace(SETTINGS, prices=PriceConfig(price_llm_written=3.0))
    session: Any = FakeSession()
    sides = [(half, session.calibration) for half in in_halves(fake_items(20))]
    records = tried(session, sides, Trial("llm", "llm"), settings, tmp_path, None)
    _, found = counted(Trial("llm", "llm"), records, records, settings)
    written = sum(record.counts.llm_tokens_generated for record in records)
    assert found.row.money == pytest.approx(3e-6 * written) and written > 0


def test_every_mode_is_tried_with_a_score_that_it_can_have() -> None:
    assert list(SCORES) == list(MODES) and all(has_score(mode, score) for mode, score in SCORES.items())
