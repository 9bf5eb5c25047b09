"""Several processes train what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train_under_torchrun
from select_to_think.structures import S2TError
from select_to_think.training.groups import make_examples, split
from select_to_think.training.settings import ScorerConfig
from select_to_think.training.trainer import arguments
from training_fixtures import make_trajectories

WHAT = ("activated", "coupled", "distill")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where two processes trained, and what they printed."""
    out = tmp_path_factory.mktemp("two")
    script = train_under_torchrun.__file__
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script, str(out), *WHAT]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


def test_weights_that_are_shared_out_give_the_same_gradients(launched: tuple[Path, str]) -> None:
    rows = [json.loads(line) for line in launched[1].splitlines() if line.startswith("{")]
    assert [row["mode"] for row in rows] == ["coupled", "proposer", "activated"]
    for row in rows:
        assert row["gradients"] >= 30 and row["furthest"] < 1e-4, row


def test_two_processes_train_what_one_does_with_twice_the_accumulation(
    launched: tuple[Path, str], tmp_path: Path
) -> None:
    steps = len(split(make_examples(make_trajectories(train_under_torchrun.TRAJECTORIES)))[0])
    assert steps % train_under_torchrun.SETTINGS["batch_trajectories"] == 0
    assert sorted(path.name for path in launched[0].iterdir()) == sorted(WHAT)
    for what in WHAT:
        train_under_torchrun.train(what, tmp_path / what)
        files = ["adapter_model.safetensors", *([] if what == "distill" else ["score_head.safetensors"])]
        for file in files:
            one, two = (load_file(folder / what / file) for folder in (tmp_path, launched[0]))
            for name, tensor in one.items():
                torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=1e-3, msg=f"{what} {name}")


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "accumulated"), [(16, 0, 2, 1), (16, 4, 2, 2), (16, 4, 1, 4), (12, 0, 4, 1)]
)
def test_the_processes_share_the_trajectories_of_a_step(
    batch: int, micro: int, processes: int, accumulated: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("select_to_think.training.trainer.processes", lambda: processes)
    config = ScorerConfig(batch_trajectories=batch, micro_batch=micro)
    made = arguments(config, tmp_path, 0, torch.device("cpu"))
    assert made.gradient_accumulation_steps == accumulated
    assert made.per_device_train_batch_size * accumulated * processes == batch


@pytest.mark.parametrize(("batch", "micro"), [(15, 0), (1, 0), (16, 3), (2, 2)])
def test_what_processes_cannot_share_is_refused(
    batch: int, micro: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("select_to_think.training.trainer.processes", lambda: 2)
    config = ScorerConfig(batch_trajectories=batch, micro_batch=micro)
    if (batch, micro) == (2, 2):  # more than a process's share: it takes its share
        assert arguments(config, tmp_path, 0, torch.device("cpu")).train_batch_size == 1
        return
    with pytest.raises(S2TError, match="over 2 processes does not divide"):
        arguments(config, tmp_path, 0, torch.device("cpu"))
