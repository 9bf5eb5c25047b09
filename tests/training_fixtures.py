"""Tiny records and models for the training tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from select_to_think.collect.records import Trajectory
from select_to_think.files import parse_record
from select_to_think.models.adapter import AdapterSwitch, inject_adapter
from select_to_think.models.loading import LoadedModel
from select_to_think.models.scorer import About, save_scorer
from tiny import tiny_model


class Tokens:
    """A tokenizer that knows ids 0 to 61; 62 and 63 are padding rows of the head."""

    eos_token_id = 2

    def get_vocab(self) -> dict[str, int]:
        return {f"t{i}": i for i in range(62)}


def loaded(arch: str = "qwen2", **settings: Any) -> LoadedModel:
    model = tiny_model(arch, **settings)
    return LoadedModel(model, tokenizer=Tokens(), name=f"tiny-{arch}")  # type: ignore[arg-type]


def make_trajectories(count: int = 6, **settings: Any) -> list[Trajectory]:
    lines = [json.dumps(record).encode() for record in make_records(count, **settings)]
    return [parse_record(Trajectory, line, "record", remedy="") for line in lines]


def make_records(
    count: int = 6, *, vocab: int = 60, group_size: int = 4, groups: int = 3, seed: int = 0, learnable: bool = False
) -> list[dict[str, Any]]:
    """Collect records of random tokens. `learnable`: the LLM's best candidate depends on the candidate alone."""
    random = np.random.default_rng(seed)
    records = []
    for i in range(count):
        prompt = random.integers(3, vocab, random.integers(3, 8)).tolist()
        output = random.integers(3, vocab, random.integers(groups + 2, 20)).tolist()
        record: dict[str, Any] = {
            "schema": 1, "id": f"item-{seed}-{i}", "domain": "all", "prompt_ids": prompt, "output_ids": output,
            "groups": [], "kl_nats": random.gamma(1.0, 1.0, len(output)).tolist(),
        }  # fmt: skip
        for position in sorted(random.choice(len(output), groups, replace=False).tolist()):
            candidates = random.choice(np.arange(3, vocab), group_size, replace=False)
            slm = np.sort(np.log(random.dirichlet(np.ones(group_size + 1))[:group_size]))[::-1]
            llm = -0.2 * candidates if learnable else np.log(random.dirichlet(np.ones(group_size)))
            group = {
                "position": position,
                "trigger": "kl",
                "statistic": 1.0,
                "candidates": candidates.tolist(),
                "slm_logprobs": slm.tolist(),
                "llm_logprobs": llm.tolist(),
                "llm_best_outside_logprob": -5.0,
                "chosen": -1,
            }
            record["groups"].append(group)
        records.append(record)
    return records


def write_scorer(folder: Path, slm: LoadedModel, mode: str, score: str) -> Path:
    """A scorer folder with a random adapter for `slm`."""
    switch = inject_adapter(slm.model, 4, 8.0)
    torch.manual_seed(3)
    with torch.no_grad():
        for _, weight in switch.weights():
            weight.normal_(0, 0.3)
    folder.mkdir()
    about = About(mode, score, 5, 0.1, slm.fingerprint)  # type: ignore[arg-type]
    save_scorer(folder, switch, torch.randn(5, 32), 0.5, about)
    return folder


def shake(module: torch.nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Random values for every trainable tensor, so that no gradient is zero by construction."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def shake_switch(switch: AdapterSwitch, seed: int = 0) -> None:
    """Random adapter weights: a fresh adapter changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in switch.weights():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
