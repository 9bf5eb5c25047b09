"""What every training promises about its folder."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import RepoUrl
from huggingface_hub.errors import HFValidationError

from select_to_think.collect.records import Trajectory
from select_to_think.config import DecodeConfig
from select_to_think.files import only_writer
from select_to_think.session import Session
from select_to_think.structures import S2TError
from select_to_think.training.bench import bench_train
from select_to_think.training.card import described, push, table
from select_to_think.training.distill import train_distill
from select_to_think.training.folders import ANSWERS, begin, publish, working_folder
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


@pytest.mark.parametrize("train", [scorer, distill, trigger])
def test_a_card_has_the_numbers_and_no_data(train: Callable[[Path], None], tmp_path: Path) -> None:
    train(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    about = described(tmp_path / "out")[2]
    assert card.startswith("---\nlibrary_name: select-to-think\n") and about["slm_fingerprint"] in card
    assert "| seed | 0 |" in card and "learning_rate" in card
    for epoch in about["training"].get("epochs", ()):
        assert all(f"{value:.4g}" in card for value in epoch.values())
    assert str(tmp_path) not in card


HUB = "Qwen/Qwen2.5-1.5B-Instruct"


@pytest.mark.parametrize(
    ("name", "models"), [("/home/me/secret/my-slm", "--slm my-slm"), (HUB, f"--slm {HUB}"), ("demo/slm", "--pair demo")]
)
def test_nothing_that_is_pushed_tells_where_the_models_lie(name: str, models: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pair = Session(slm=replace(tiny_loaded(0), name=name), llm=replace(tiny_loaded(1), name="big at host.local:8000"))
    config = DistillConfig(**ADAPTER)  # type: ignore[arg-type]
    train_distill(pair, make_trajectories(24), config, DecodeConfig(max_new_tokens=8), out)
    card = (out / "README.md").read_text()
    assert f"    s2t generate {models} --distill FOLDER" in card and "| llm | big |" in card
    assert (f"base_model: {name}\n" in card) == (name == HUB)
    for file in out.rglob("*.*"):
        assert not any(place in file.read_bytes() for place in (b"secret", b"host.local", str(tmp_path).encode()))


def test_a_cell_of_a_table_is_one_line() -> None:
    lines = table(("name", "value"), [["template", "{question}\n\na | b\n"], ["rate", 0.123456]]).splitlines()
    assert lines[2:] == [r"| template | {question}<br><br>a \| b<br> |", "| rate | 0.1235 |"]


def test_a_refused_command_leaves_an_unfinished_training(tmp_path: Path) -> None:
    work = tmp_path / "out.training"
    with pytest.raises(KeyboardInterrupt), working_folder(tmp_path / "out"):
        begin(work, {})
        (work / ANSWERS).write_text("{}\n")
        raise KeyboardInterrupt
    (tmp_path / "out").mkdir()
    with pytest.raises(S2TError, match="already exists"), working_folder(tmp_path / "out", resume=True):
        raise AssertionError
    assert (work / ANSWERS).read_text() == "{}\n"
    (tmp_path / "out").rmdir()
    with pytest.raises(S2TError, match="cannot write"), working_folder(tmp_path / "out", resume=True):
        (tmp_path / "out" / "of somebody else").mkdir(parents=True)
        publish(tmp_path / "out")
    assert (work / ANSWERS).exists()


def test_what_killed_processes_left_is_cleared_away(tmp_path: Path) -> None:
    """Their unfinished folders, even one of this process's number; those of processes that live stay."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    here = platform.node()
    others = ".out.old.tmp", f".out.b.{here}.{gone.pid}.tmp", f".out.elsewhere.{gone.pid}.tmp"
    alive = f".out.{here}.{os.getppid()}.tmp"
    for name in (f".out.{here}.{gone.pid}.tmp", f".out.{here}.{os.getpid()}.tmp", alive, *others):
        (tmp_path / name).mkdir()
    publish(tmp_path / "out", lambda folder: (folder / "file").touch())
    assert {path.name for path in tmp_path.iterdir()} == {alive, *others, "out"}
    with only_writer(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {alive, *others, "out"}


def strangers() -> list[Trajectory]:
    """Of an SLM with more tokens."""
    return [replace(each, output_ids=(*each.output_ids[:-1], 9999)) for each in make_trajectories(60)]


@pytest.mark.parametrize(
    "train",
    [
        lambda out: train_scorer(loaded(), strangers(), ScorerConfig(), out),
        lambda out: train_trigger(loaded(), strangers(), TriggerTrainConfig(), out),
        lambda out: train_distill(
            Session(slm=tiny_loaded(0), llm=tiny_loaded(1)), strangers(), DistillConfig(), DecodeConfig(), out
        ),
        lambda out: bench_train(loaded(), strangers(), ScorerConfig()),
    ],
)
def test_a_collection_of_another_slm_is_refused(train: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(S2TError, match=r"holds token 9999, .* collect with the SLM to be trained"):
        train(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_pushing_uploads_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, Any]] = []

    class Hub:
        def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> Any:
            if "/" not in repository:
                raise HFValidationError("no such name")
            sent.append((repository, private))
            return RepoUrl(f"https://huggingface.co/{repository}")

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
            sent.append((repo_id, sorted(path.name for path in folder_path.iterdir())))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    scorer(tmp_path / "out")
    assert push(tmp_path / "out", "me/scorer", private=True) == "https://huggingface.co/me/scorer"
    assert sent[0] == ("me/scorer", True)
    assert sent[1][0] == "me/scorer" and {"README.md", "scorer.json", "adapter_config.json"} <= set(sent[1][1])
    with pytest.raises(S2TError, match="hf auth login"):
        push(tmp_path / "out", "nobody")
    with pytest.raises(S2TError, match="nothing that `s2t train` made"):
        push(tmp_path, "me/scorer")
    assert len(sent) == 2


def test_a_hub_that_cannot_be_reached_is_a_line(tmp_path: Path) -> None:
    """In a process of its own: the library reads the address of its hub once."""
    scorer(tmp_path / "out")
    command = [sys.executable, "-m", "select_to_think", "train", "push", str(tmp_path / "out"), "--to", "me/scorer"]
    nowhere = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "none"}
    done = subprocess.run(command, env=nowhere, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: cannot push to me/scorer: ") and "hf auth login" in done.stderr
