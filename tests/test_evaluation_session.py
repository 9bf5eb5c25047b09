"""Calibrating, measuring, collecting and evaluating with real (tiny, random) models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from select_to_think.collect.collect import collect
from select_to_think.collect.records import Trajectory, read_trajectories
from select_to_think.config import CollectConfig, DecodeConfig, EvalSettings, SelectConfig
from select_to_think.evaluation.calibrate import calibrate
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.measure import measure
from select_to_think.evaluation.results import read_records
from select_to_think.evaluation.runner import evaluate
from select_to_think.session import Session
from tiny import tiny_loaded

DECODE = DecodeConfig(max_new_tokens=20, max_batch=4, seed=3)
METHODS = ("greedy", "sample", "maj@3", "llm", "takeover", "s2t")
BUDGET = 0.3
COLLECT = CollectConfig(collect_budget=BUDGET, entropy_budget=BUDGET, group_size=12, shard_items=4)


def items(first: int, count: int, split: str) -> list[Item]:
    found = []
    for n in range(first, first + count):
        question = " ".join(f"w{Random(n * 10 + k).randrange(3, 64)}" for k in range(2 + n % 5))
        found.append(Item(f"{split}-{n}", question, f"w{n % 5}", "ab"[n % 2], split))
    return found


TRAIN, TEST = items(50, 10, "train"), items(100, 9, "test")


@pytest.fixture(scope="module")
def session() -> Session:
    session = Session(slm=tiny_loaded(0, 2), llm=tiny_loaded(1, 3))
    session.calibration = calibrate(session, items(0, 12, "calibration"), decode=DECODE)
    return session


def distributions(model: torch.nn.Module, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """(P, V) log-probabilities at each output token, from one plain forward; special tokens are never emitted."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
    return logits.log_softmax(-1)


def kl_by_hand(session: Session, prompt: list[int], tokens: list[int]) -> np.ndarray:
    slm, llm = (distributions(m.model, prompt, tokens).exp() for m in (session.slm, session.llm))
    return (llm * (llm / slm).log()).sum(-1).numpy()


def test_kl_and_hits_are_those_of_plain_forwards(session: Session) -> None:
    answers = session.generate([item.question for item in TEST], "greedy", DECODE)
    kl, hits, agree = [], [], []
    for item, answer in zip(TEST, answers, strict=True):
        prompt, tokens = session.prompt(item.question, 1, with_llm=False), list(answer.tokens)
        kl += kl_by_hand(session, prompt, tokens).tolist()
        slm, llm = (distributions(m.model, prompt, tokens) for m in (session.slm, session.llm))
        hits += [bool((llm[p].argmax() == slm[p].topk(8).indices).any()) for p in range(len(tokens))]
        agree += [bool(llm[p].argmax() == slm[p].argmax()) for p in range(len(tokens))]
    row = measure(session, TEST, select=SelectConfig(trigger_budget=BUDGET), decode=DECODE).rows[-1]
    top = np.argsort(-np.array(kl), kind="stable")[: round(BUDGET * len(kl))]
    assert row.n_steps == len(top) and row.hit_at["8"] == pytest.approx(np.array(hits)[top].mean())
    assert row.agreement == pytest.approx(np.mean(agree))


def test_thresholds_spend_the_budget_on_the_calibration_items(session: Session) -> None:
    questions = [item.question for item in items(0, 12, "calibration")]
    select = SelectConfig(trigger="entropy", trigger_budget=BUDGET)
    greedy = session.generate(questions, "greedy", DECODE)
    entropy = []
    for question, answer in zip(questions, greedy, strict=True):
        slm = distributions(session.slm.model, session.prompt(question, 1, with_llm=False), list(answer.tokens))
        entropy += (-(slm.exp() * slm).sum(-1)).tolist()
    threshold = session.trigger("entropy", select.trigger_budget).threshold
    assert (np.array(entropy) > threshold).mean() == pytest.approx(BUDGET, abs=0.02)


@pytest.fixture(scope="module")
def collection(session: Session, tmp_path_factory: pytest.TempPathFactory) -> list[Trajectory]:
    folder = tmp_path_factory.mktemp("collection")
    collect(session, TRAIN, COLLECT, DECODE, folder)
    return list(read_trajectories(folder))


def test_collected_trajectories_are_those_of_s2t(session: Session, collection: list[Trajectory]) -> None:
    select = SelectConfig(trigger="kl", trigger_budget=BUDGET)
    answers = session.generate([item.question for item in TRAIN], "s2t", DECODE, select)
    assert [t.output_ids for t in collection] == [answer.tokens for answer in answers]
    fired = [{p for p, step in enumerate(answer.steps) if step.fired} for answer in answers]
    assert [{g.position for g in t.groups if "kl" in g.triggers} for t in collection] == fired
    assert any(fired)


def test_collected_values_are_those_of_plain_forwards(session: Session, collection: list[Trajectory]) -> None:
    for trajectory in collection:
        prompt, tokens = list(trajectory.prompt_ids), list(trajectory.output_ids)
        slm, llm = (distributions(m.model, prompt, tokens) for m in (session.slm, session.llm))
        assert trajectory.kl_nats == pytest.approx(kl_by_hand(session, prompt, tokens), abs=1e-4)
        for group in trajectory.groups:
            best = slm[group.position].topk(12).indices
            assert group.candidates == tuple(best.tolist())
            assert group.llm_logprobs == pytest.approx(llm[group.position, best].numpy(), abs=1e-4)
            others = llm[group.position].clone()
            others[best] = -torch.inf
            assert group.llm_best_outside_logprob == pytest.approx(float(others.max()), abs=1e-4)


def test_an_evaluation_does_not_depend_on_batching_or_on_being_stopped(session: Session, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 31:
            raise KeyboardInterrupt

    settings = EvalSettings(DECODE, SelectConfig(trigger_budget=BUDGET))
    alone = replace(settings, decode=replace(DECODE, max_batch=1))
    whole = evaluate(session, TEST, METHODS, alone, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evaluate(session, TEST, METHODS, settings, out=tmp_path / "stopped", progress=stop)
    stopped = evaluate(session, TEST, METHODS, settings, out=tmp_path / "stopped")
    for method in METHODS:
        first, second = (
            [(r.id, r.text, r.right, r.fired, r.flips, r.votes) for r in read_records(folder)]
            for folder in (tmp_path / name / f"records-{method}.jsonl" for name in ("whole", "stopped"))
        )
        assert first == second
    times = {"seconds": 0, "tokens_per_second": None}
    assert [replace(row, **times) for row in whole.rows] == [replace(row, **times) for row in stopped.rows]
    assert all(row.seconds > 0 for row in whole.rows)
    rates = {row.method: row for row in whole.rows if row.domain == "all"}
    assert rates["s2t"].hit_at_8 is not None and rates["takeover"].trigger_rate == pytest.approx(BUDGET, abs=0.2)
    assert rates["greedy"].llm_forwards == 0 < rates["llm"].llm_forwards
