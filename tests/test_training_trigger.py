"""The learned trigger: it learns, it spends the budget it was asked to spend, its folder reads back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from select_to_think.collect.records import Trajectory
from select_to_think.config import PairConfig
from select_to_think.models.loading import LoadedModel
from select_to_think.models.trigger_head import load_trigger_head
from select_to_think.session import Session
from select_to_think.structures import S2TError
from select_to_think.training import head
from select_to_think.training.settings import TriggerTrainConfig
from select_to_think.training.trigger import collect_steps, quality, train_trigger
from training_fixtures import loaded, make_trajectories

QUICK = TriggerTrainConfig(trigger_budget=0.2, hidden_size=16, epochs=20, batch_steps=64, learning_rate=1e-2)


def readable(slm: LoadedModel, count: int) -> list[Trajectory]:
    """Trajectories whose KL is a function of the hidden state, so that it can be learned."""
    trajectories = make_trajectories(count)
    return [replace(t, kl_nats=tuple(hidden_states_of(slm, t)[:, 0].exp().tolist())) for t in trajectories]


@torch.no_grad()
def hidden_states_of(slm: LoadedModel, t: Trajectory) -> torch.Tensor:
    """The definition: one forward per step, the last hidden state before the token."""
    rows = []
    for p in range(len(t.output_ids)):
        ids = torch.tensor([[*t.prompt_ids, *t.output_ids[:p]]])
        rows.append(slm.model(ids, output_hidden_states=True).hidden_states[-1][0, -1])
    return torch.stack(rows)


def test_hidden_states_are_those_before_each_output_token(monkeypatch: pytest.MonkeyPatch) -> None:
    slm, trajectories = loaded(), make_trajectories(3)
    expected = torch.cat([hidden_states_of(slm, t) for t in trajectories])
    for tokens in (1, 60, 16384):
        monkeypatch.setattr(head, "BATCH_TOKENS", tokens)
        steps = collect_steps(slm, trajectories)
        torch.testing.assert_close(steps.hidden, expected, atol=1e-5, rtol=1e-4)
        assert steps.kl_nats.tolist() == pytest.approx([kl for t in trajectories for kl in t.kl_nats])


@pytest.mark.parametrize("width", [0, 16])
def test_it_learns_and_reads_back(tmp_path: Path, width: int) -> None:
    slm = loaded()
    data = readable(slm, 150)
    before = {name: tensor.clone() for name, tensor in slm.model.state_dict().items()}
    report = train_trigger(slm, data, replace(QUICK, hidden_size=width), tmp_path / "head")
    assert all(torch.equal(tensor, before[name]) for name, tensor in slm.model.state_dict().items())
    assert report["roc_auc"] > 0.9 and report["recall"] > 0.5 and report["precision"] > 0.5
    assert report["spent_budget"] == pytest.approx(0.2, abs=0.1)
    read = load_trigger_head(tmp_path / "head", slm)
    assert json.loads((tmp_path / "head" / "trigger_head.json").read_text())["training"] == report
    assert len(read.quantiles) == 1001 and (np.diff(read.quantiles) >= 0).all()
    session = Session(PairConfig(trigger_head=str(tmp_path / "head")), slm=slm)
    assert session.trigger("learned", 0.2).threshold == pytest.approx(read.quantiles[800])
    states = hidden_states_of(slm, data[0]).numpy()
    assert read(states).shape == (len(states),)
    assert read(states[:1])[0] == pytest.approx(read(states)[0], abs=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


def test_refusals(tmp_path: Path) -> None:
    slm = loaded()
    with pytest.raises(S2TError, match="too few"):
        train_trigger(slm, make_trajectories(2), QUICK, tmp_path / "head")
    flat = [replace(t, kl_nats=(0.0,) * len(t.kl_nats)) for t in make_trajectories(60)]
    with pytest.raises(S2TError, match="one kind"):
        train_trigger(slm, flat, QUICK, tmp_path / "head")
    with pytest.raises(S2TError, match="s2t train trigger"):
        load_trigger_head(tmp_path / "head", slm)
    train_trigger(slm, make_trajectories(60), replace(QUICK, epochs=1), tmp_path / "head")
    with pytest.raises(S2TError, match="already exists"):
        train_trigger(slm, make_trajectories(60), QUICK, tmp_path / "head")
    with pytest.raises(S2TError, match="another SLM"):
        load_trigger_head(tmp_path / "head", loaded(seed=3))


def test_quality_counts() -> None:
    marks = np.array([True, True, False, False, True])
    report = quality(np.array([3.0, 2.0, 1.0, 0.0, -1.0], np.float32), marks, 0.5)
    assert report["precision"] == pytest.approx(2 / 3) and report["recall"] == pytest.approx(2 / 3)
    assert report["spent_budget"] == pytest.approx(3 / 5) and report["positive_share"] == pytest.approx(3 / 5)
    assert report["roc_auc"] == pytest.approx(4 / 6)
