"""The gradients of a scorer whose weights FSDP2 shares out among processes (started by `train_under_torchrun.py`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from select_to_think.config import ScorerMode
from select_to_think.training.groups import collate, make_examples
from select_to_think.training.module import ScorerModule
from select_to_think.training.settings import ScorerConfig
from tiny import tiny_model
from training_fixtures import make_trajectories, shake


def total(out: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([value.sum() for name, value in out.items() if name != "logits"]).sum()


def made(mode: ScorerMode) -> ScorerModule:
    torch.manual_seed(1)
    module = ScorerModule(tiny_model("qwen2", scale=2.0), ScorerConfig(lora_rank=4, bins=4, mode=mode), [60, 61])
    shake(module)
    return module


def compare(mode: ScorerMode) -> dict[str, Any]:
    mesh, examples = init_device_mesh("cpu", (2,)), make_examples(make_trajectories(4))
    whole, sharded = made(mode), made(mode)
    total(whole(**collate(examples, whole=whole.whole))).backward()  # type: ignore[no-untyped-call]
    layers: Any = sharded.slm.model.layers
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    mine = examples[dist.get_rank() * 2 :][:2]
    total(sharded(**collate(mine, whole=sharded.whole))).backward()  # type: ignore[no-untyped-call]
    parameters = dict(sharded.named_parameters())
    far, count = 0.0, 0
    for name, parameter in whole.named_parameters():
        if parameter.grad is not None:
            gradient: Any = parameters[name].grad
            found = gradient.full_tensor() * 2  # FSDP takes the mean over processes
            far = max(far, ((found - parameter.grad).abs().max() / parameter.grad.abs().max()).item())
            count += 1
    return {"mode": mode, "gradients": count, "furthest": far}


def print_rows() -> None:
    """A line a mode: how many gradients there are, and how far they are from those of one process."""
    for mode in get_args(ScorerMode):
        row = compare(mode)
        if dist.get_rank() == 0:
            print(json.dumps(row), flush=True)
