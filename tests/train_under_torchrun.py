"""Started by `torch.distributed.run`: train tiny scorers and a distilled SLM as one of several processes, and compare
gradients whose weights are shared out (`train_sharded.py`)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist

from select_to_think.config import DecodeConfig
from select_to_think.session import Session
from select_to_think.training.distill import train_distill
from select_to_think.training.scorer import train_scorer
from select_to_think.training.settings import DistillConfig, ScorerConfig
from tiny import tiny_loaded
from train_sharded import print_rows
from training_fixtures import loaded, make_trajectories

SETTINGS = {"lora_rank": 4, "lora_alpha": 8.0, "epochs": 2.0, "learning_rate": 3e-3, "batch_trajectories": 8}


def train(what: str, out: Path) -> None:
    data = make_trajectories(TRAJECTORIES)
    if what == "distill":
        pair, config = Session(slm=tiny_loaded(0), llm=tiny_loaded(1)), DistillConfig(**SETTINGS, micro_batch=2)  # type: ignore[arg-type]
        train_distill(pair, data, config, DecodeConfig(max_new_tokens=8), out)
    else:
        train_scorer(loaded(), data, ScorerConfig(mode=what, bins=8, **SETTINGS, micro_batch=2), out)  # type: ignore[arg-type]


TRAJECTORIES = 17  # 16 of them train: two whole steps an epoch

if __name__ == "__main__":
    dist.init_process_group("gloo")  # one for all: to make a second one may wait for ever
    print_rows()
    for what in sys.argv[2:]:
        train(what, Path(sys.argv[1]) / what)
    dist.destroy_process_group()
