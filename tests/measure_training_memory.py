"""Started as a process of its own: for each case named, the predicted and the measured memory of one training step.

With `MALLOC_MMAP_THRESHOLD_` in its environment every tensor of some size is given back when it is freed.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from select_to_think.training.distill import Answer
from select_to_think.training.distill import collate as collate_answers
from select_to_think.training.groups import Example, collate
from select_to_think.training.memory import predict
from select_to_think.training.module import DistillModule, ScorerModule
from select_to_think.training.settings import DistillConfig, ScorerConfig
from tiny import tiny_model

VOCABULARY, CPU = 4000, torch.device("cpu")


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def example(name: str, tokens: int, groups: int) -> Example:
    random = np.random.default_rng(0)
    positions = np.sort(random.choice(np.arange(1, tokens), groups, replace=False))
    logprobs = np.full((groups, 8), -2.0, np.float32)
    candidates = random.integers(3, VOCABULARY, (groups, 8))
    return Example(name, random.integers(3, VOCABULARY, tokens), positions, candidates, logprobs, logprobs)


def total(out: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([value.sum() for name, value in out.items() if name not in ("logits", "agree", "rows")]).sum()


def measure(case: str) -> dict[str, Any]:
    mode, *flags = case.split("+")
    settings: dict[str, Any] = {"lora_rank": 8, "gradient_checkpointing": "checkpointing" in flags}
    slm, llm = (tiny_model("qwen2", vocab=VOCABULARY, hidden=256, layers=4, seed=seed) for seed in (0, 1))
    module: Any
    if mode == "kd":
        module = DistillModule(slm, DistillConfig(**settings), [], llm)
        random = np.random.default_rng(0)
        small, large = (
            collate_answers([Answer(str(row), random.integers(3, VOCABULARY, length), 9) for row in range(rows)])
            for rows, length in ((1, 20), (8, 240))
        )
    else:
        module = ScorerModule(slm, ScorerConfig(mode=mode, **settings), [])  # type: ignore[arg-type]
        small, large = (
            collate([example(str(row), length, groups) for row in range(rows)], whole=module.whole)
            for rows, length, groups in ((1, 20, 2), (8, 160, 14))
        )
    bf16 = "bf16" in flags

    def step(batch: Mapping[str, Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            total(module(**batch)).backward()  # type: ignore[no-untyped-call]
        module.zero_grad()

    with module.lent():
        predicted = predict(module, large, total, device=CPU, bf16=bf16)
        assert predicted is not None
        step(small)  # what libraries keep for themselves is there now
        gc.collect()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is that of now
        step(large)
    return {"case": case, "step_bytes": predicted.step, "used_bytes": resident("VmHWM") - before}


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(json.dumps(measure(each)), flush=True)
