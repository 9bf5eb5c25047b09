"""Hit@k and calibration against their plainest definitions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fake_session import DECODE, FakeSession, fake_items, fake_labels
from select_to_think.config import SelectConfig
from select_to_think.evaluation.calibrate import calibrate
from select_to_think.evaluation.items import question_key
from select_to_think.evaluation.measure import KS, clustered_stderr, measure, top_share
from select_to_think.structures import S2TError

ITEMS = fake_items(21)


def steps_by_hand() -> list[dict[str, Any]]:
    session = FakeSession()
    steps = []
    for number, item in enumerate(ITEMS):
        tokens = session.answer(item.question, "greedy").tokens
        labels = fake_labels(item.question, tokens)
        for p in range(len(tokens)):
            steps.append(
                {
                    "item": number,
                    "domain": item.domain,
                    "kl": float(labels.statistics["kl"][p]),
                    "slm": labels.slm_ids[p].tolist(),
                    "llm_top": int(labels.llm_top_ids[p, 0]),
                    "flip": max(range(8), key=lambda c: labels.llm_logprobs[p, c]) != 0,
                }
            )
    return steps


@pytest.mark.parametrize("budget", [0.05, 0.3, 1.0])
def test_hit_at_k_is_its_definition(budget: float) -> None:
    steps = steps_by_hand()
    fired = sorted(steps, key=lambda step: -step["kl"])[: round(budget * len(steps))]
    rows = measure(FakeSession(), ITEMS, select=SelectConfig(trigger_budget=budget), decode=DECODE).rows
    assert [row.domain for row in rows] == ["sums", "facts", "all"]
    for row in rows:
        ours = [step for step in fired if row.domain in ("all", step["domain"])]
        everything = [step for step in steps if row.domain in ("all", step["domain"])]
        assert row.n_steps == len(ours) and row.n_items == len({step["item"] for step in everything})
        for k in KS:
            assert row.hit_at[str(k)] == pytest.approx(np.mean([step["llm_top"] in step["slm"][:k] for step in ours]))
        assert row.flip_rate == pytest.approx(np.mean([step["flip"] for step in ours]))
        assert row.agreement == pytest.approx(np.mean([s["llm_top"] == s["slm"][0] for s in everything]))
        assert list(row.hit_at.values()) == sorted(row.hit_at.values())


def test_answers_shorter_than_the_warm_up_are_refused() -> None:
    with pytest.raises(S2TError, match="lower --warm-up-steps"):
        measure(FakeSession(), ITEMS, select=SelectConfig(warm_up_steps=1000), decode=DECODE)


def test_the_json_of_the_command() -> None:
    value = measure(FakeSession(), ITEMS, select=SelectConfig(trigger_budget=0.2), decode=DECODE).to_json()
    assert value["schema"] == 1 and value["provenance"]["config"]["measure"]["trigger_budget"] == 0.2
    row = value["results"][-1]
    assert list(row["hit_at"]) == list(row["stderr_at"]) == ["1", "2", "4", "8", "16", "32"]


def test_one_unnamed_domain_is_one_row() -> None:
    items = [replace(item, domain="all") for item in ITEMS]
    assert [row.domain for row in measure(FakeSession(), items, select=SelectConfig(trigger_budget=0.2)).rows] == [
        "all"
    ]


def test_a_domain_without_triggered_steps_has_no_rates() -> None:
    session = FakeSession()
    labels = {i.question: fake_labels(i.question, session.answer(i.question, "greedy").tokens) for i in ITEMS}
    least = 1 / sum(len(entry.statistics["kl"]) for entry in labels.values())  # one step
    best = max(ITEMS, key=lambda item: labels[item.question].statistics["kl"].max())
    items = [replace(item, domain="best" if item == best else "rest") for item in ITEMS]
    rows = {row.domain: row for row in measure(FakeSession(), items, select=SelectConfig(trigger_budget=least)).rows}
    assert rows["best"].n_steps == 1 and rows["best"].stderr_at["8"] is None
    assert rows["rest"].n_steps == 0 and rows["rest"].hit_at["8"] is None and rows["rest"].flip_rate is None


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(S2TError, match="trigger_budget"):
        measure(FakeSession(), ITEMS, select=SelectConfig(trigger_budget=0.0))


def test_top_share_takes_exactly_the_share_even_with_ties() -> None:
    marks, smallest = top_share([np.zeros(7, np.float32), np.zeros(3, np.float32)], 0.3)
    assert sum(mark.sum() for mark in marks) == 3 and smallest == 0
    assert [len(mark) for mark in marks] == [7, 3]


def test_stderr_is_binomial_when_steps_are_items_and_wider_when_items_agree() -> None:
    random = np.random.default_rng(0)
    hits = (random.random(400) < 0.3).astype(int)
    p = hits.mean()
    assert clustered_stderr(hits, np.ones(400, int)) == pytest.approx(math.sqrt(p * (1 - p) / 399))
    assert clustered_stderr(hits * 10, np.full(400, 10)) == pytest.approx(math.sqrt(p * (1 - p) / 399))
    assert clustered_stderr(np.array([1]), np.array([2])) is None


def test_stderr_covers_simulated_clusters() -> None:
    """The spread of the estimate over many simulated data sets is what the formula says."""
    random = np.random.default_rng(1)
    estimates, errors = [], []
    for _ in range(300):
        counts = random.integers(0, 8, 80)
        hits = random.binomial(counts, random.beta(1, 2, 80))
        estimates.append(hits.sum() / counts.sum())
        errors.append(clustered_stderr(hits, counts))
    assert np.std(estimates) == pytest.approx(np.mean(errors), rel=0.15)


def test_calibration_holds_the_quantiles_of_every_step() -> None:
    calibration = calibrate(FakeSession(), ITEMS, decode=DECODE)
    kl = np.array([step["kl"] for step in steps_by_hand()])
    assert set(calibration.quantiles) == {"kl", "entropy", "margin"}
    assert len(calibration.quantiles["kl"]) == 1001 and calibration.n_steps == len(kl)
    for budget in (0.01, 0.1, 0.5):
        assert (kl > calibration.threshold("kl", budget)).mean() == pytest.approx(budget, abs=1 / len(kl))
    assert list(calibration.question_keys) == [question_key(item) for item in ITEMS]


def test_calibrating_without_an_llm_leaves_the_kl_out() -> None:
    session = FakeSession()
    del session.llm
    calibration = calibrate(session, ITEMS, decode=DECODE, with_llm=False)
    assert set(calibration.quantiles) == {"entropy", "margin"} and calibration.llm_fingerprint is None


def test_calibrating_on_test_data_is_refused() -> None:
    with pytest.raises(S2TError, match="refusing to calibrate on test data"):
        calibrate(FakeSession(), fake_items(split="test"))
