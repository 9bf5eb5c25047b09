"""Divergences, their classes and the recall of triggers, against their definitions in plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fake_session import DECODE, FakeSession, fake_items, fake_labels
from select_to_think.advice.divergences import CLASSES, Head, ItemSteps, divergence_rows, observe, recall_rows
from select_to_think.advice.trials import in_halves
from select_to_think.config import SelectConfig
from select_to_think.evaluation.measure import measure, sufficiency
from select_to_think.files import read_bytes
from select_to_think.structures import S2TError

HALVES = in_halves(fake_items(24))
ITEMS = [*HALVES[0], *HALVES[1]]
K = 8


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("advice") / "steps.jsonl"


@pytest.fixture(scope="module")
def steps(path: Path) -> dict[str, ItemSteps]:
    return observe(FakeSession(), HALVES, DECODE, SelectConfig(candidates=K), path, None)  # type: ignore[arg-type]


def plain_class(entry: ItemSteps, item_question: str, p: int) -> str | None:
    """The class of step p by the words of the module."""
    tokens = FakeSession().answer(item_question, "greedy").tokens
    labels = fake_labels(item_question, tokens)
    best, greedy = math.exp(labels.llm_top_logprobs[p, 0]), math.exp(labels.llm_logprobs[p, 0])
    if not best > 2 * greedy:
        return None
    if labels.llm_top_ids[p, 0] not in labels.slm_ids[p, :K]:
        return "not_candidate"
    if entry.foreseen[p] >= 0.5:
        return "habit"
    return "sure" if math.exp(labels.slm_logprobs[p, 0]) >= 0.9 else "unsure"


def test_classes_and_rows_are_their_definition(steps: dict[str, ItemSteps]) -> None:
    found: dict[str, list[str | None]] = {"sums": [], "facts": [], "all": []}
    for item in ITEMS:
        entry = steps[item.id]
        plain = [plain_class(entry, item.question, p) for p in range(len(entry.rank))]
        assert plain == [None if place < 0 else CLASSES[place] for place in entry.classes(K)]
        found[item.domain] += plain
        found["all"] += plain
    rows = {row.domain: row for row in divergence_rows(ITEMS, [steps[item.id] for item in ITEMS], K)}
    assert rows.keys() == found.keys()
    for domain, plain in found.items():
        row = rows[domain]
        assert row.n_steps == len(plain) and row.n_divergences == sum(each is not None for each in plain) > 0
        assert {name: getattr(row, name) for name in CLASSES} == {name: plain.count(name) for name in CLASSES}
    assert rows["all"].habit > 0 and rows["all"].not_candidate > 0


def test_the_first_class_that_fits_counts() -> None:
    zeros = [0.0] * 6
    entry = ItemSteps(
        schema=1,
        id="a",
        statistics={"kl": zeros},
        rank=[8, 7, 1, 1, 1, 0],
        flip=[True] * 6,
        slm_probability=[0.95, 0.95, 0.9, 0.89, 0.3, 0.3],
        llm_odds_nats=[3.0, 3.0, 3.0, 3.0, 0.69, 0.0],
        foreseen=[0.9, 0.5, 0.49, 0.49, 0.9, 0.9],
    )
    names = ["" if place < 0 else CLASSES[place] for place in entry.classes(8)]
    assert names == ["not_candidate", "habit", "sure", "unsure", "", ""]
    assert [CLASSES[place] for place in entry.classes(9)[:1]] == ["habit"]


def test_recall_is_the_share_among_the_steps_that_a_trigger_puts_first(steps: dict[str, ItemSteps]) -> None:
    entries = [steps[item.id] for item in ITEMS]
    flat = [(entry, p) for entry in entries for p in range(len(entry.rank))]
    places = [entry.classes(K)[p] for entry, p in flat]
    rows = recall_rows(entries, [0.1, 0.5, 1.0], K)
    assert {row.trigger for row in rows} == {"kl", "entropy", "margin", "learned"} and len(rows) == 12
    for row in rows:
        values = [e.foreseen[p] if row.trigger == "learned" else e.statistics[row.trigger][p] for e, p in flat]
        first = sorted(range(len(flat)), key=lambda i: -np.float32(values[i]))[: round(row.budget * len(flat))]
        for place, name in enumerate(CLASSES):
            mine = [i for i in range(len(flat)) if places[i] == place]
            share = sum(i in first for i in mine) / len(mine) if mine else None
            assert getattr(row, name) == pytest.approx(share)
        assert row.all == pytest.approx(sum(places[i] >= 0 for i in first) / sum(place >= 0 for place in places))
        assert row.budget < 1 or row.all == 1


def test_each_half_is_foreseen_from_the_other_one(steps: dict[str, ItemSteps]) -> None:
    own = [item.id for item in HALVES[0]]
    states = {
        i.id: fake_labels(i.question, FakeSession().answer(i.question, "greedy").tokens, hidden=True) for i in ITEMS
    }
    other = [item.id for item in HALVES[1]]
    hidden = np.concatenate([states[name].hidden for name in other]).astype(np.float16)  # type: ignore[arg-type]
    head = Head.fit(hidden, np.concatenate([steps[name].divergent for name in other]))
    for name in own:
        assert steps[name].foreseen == pytest.approx(head(states[name].hidden.astype(np.float16)).tolist())  # type: ignore[union-attr]


def test_the_head_is_the_minimum_of_its_loss() -> None:
    """Against finite differences of the loss in its docstring."""
    random = np.random.default_rng(0)
    states = random.normal(2.0, 3.0, size=(300, 5)).astype(np.float16)
    marks = random.random(300) < 1 / (1 + np.exp(-(states[:, 0].astype(float) - 2)))
    head = Head.fit(states, marks)
    inputs = (states.astype(np.float64) - head.mean) / head.spread

    def loss(weights: np.ndarray) -> float:
        logits = inputs @ weights[:-1] + weights[-1]
        signs = np.where(marks, 1, -1)
        return float(np.log1p(np.exp(-signs * logits)).mean() + weights[:-1] @ weights[:-1] / (2 * len(marks)))

    best = loss(head.weights.astype(np.float64))
    for axis in range(6):
        for shift in (-0.05, 0.05):
            moved = head.weights.astype(np.float64)
            moved[axis] += shift
            assert loss(moved) > best


def test_what_was_observed_is_read_back_and_gives_the_same_hit_at_k(steps: dict[str, ItemSteps], path: Path) -> None:
    session = FakeSession()
    before = read_bytes(path, remedy="")
    again = observe(session, HALVES, DECODE, SelectConfig(candidates=K), path, None)  # type: ignore[arg-type]
    assert again == steps and not session.streamed and read_bytes(path, remedy="") == before
    select = SelectConfig(trigger_budget=0.2, candidates=K)
    expected = measure(FakeSession(), ITEMS, select=select, decode=DECODE).rows  # type: ignore[arg-type]
    rows, _ = sufficiency(ITEMS, [steps[item.id].ranked for item in ITEMS], 0.2)
    assert tuple(rows) == expected


def test_steps_of_other_questions_are_refused(steps: dict[str, ItemSteps], path: Path) -> None:
    others = in_halves([replace(item, id=f"x{item.id}") for item in ITEMS])
    with pytest.raises(S2TError, match="other questions"):
        observe(FakeSession(), others, DECODE, SelectConfig(), path, None)  # type: ignore[arg-type]
