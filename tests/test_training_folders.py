"""What every training promises about its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from select_to_think.config import DecodeConfig
from select_to_think.session import Session
from select_to_think.structures import S2TError
from select_to_think.training.distill import train_distill
from select_to_think.training.scorer import train_scorer
from select_to_think.training.settings import DistillConfig, ScorerConfig, TriggerTrainConfig
from select_to_think.training.trigger import train_trigger
from tiny import tiny_loaded
from training_fixtures import loaded, make_trajectories

ADAPTER = {"lora_rank": 4, "lora_alpha": 8.0, "epochs": 1.0, "batch_trajectories": 8}


def scorer(out: Path) -> None:
    train_scorer(loaded(), make_trajectories(24), ScorerConfig(bins=8, **ADAPTER), out)  # type: ignore[arg-type]


def distill(out: Path) -> None:
    pair, config = Session(slm=tiny_loaded(0), llm=tiny_loaded(1)), DistillConfig(**ADAPTER)  # type: ignore[arg-type]
    train_distill(pair, make_trajectories(24), config, DecodeConfig(max_new_tokens=8), out)


def trigger(out: Path) -> None:
    train_trigger(loaded(), make_trajectories(60), TriggerTrainConfig(trigger_budget=0.2, epochs=1.0), out)


@pytest.mark.parametrize(("train", "module"), [(scorer, "adapter"), (distill, "adapter"), (trigger, "layers")])
def test_a_full_disk_leaves_nothing_under_the_final_name(
    train: Callable[[Path], None], module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"select_to_think.models.{module}.save_file", full)
    with pytest.raises(S2TError, match="No space left"):
        train(tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
