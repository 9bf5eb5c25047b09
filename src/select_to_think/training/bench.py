"""What packing saves: token-forwards and seconds of the packed and of the plain form, on the same groups in one run.

Non-goals: quality; both forms have the same loss and gradients (a test).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from select_to_think.collect.records import Trajectory
from select_to_think.models.loading import LoadedModel
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.structures import Progress
from select_to_think.training.groups import Example, collate, group_count, make_examples, token_forwards
from select_to_think.training.module import ScorerModule
from select_to_think.training.settings import ScorerConfig


def bench_train(
    slm: LoadedModel,
    trajectories: Iterable[Trajectory],
    config: ScorerConfig,
    *,
    limit: int = 32,
    repeats: int = 5,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time forward, loss and backward over `limit` trajectories, spread evenly over the lengths of the collection.

    The two forms alternate; seconds are medians of `repeats` after one pass for warming up. Token-forwards are counted
    exactly, without padding; seconds include the padding.

    Returns:
        `{"rows": [...]}` with rows `packed` and `plain`: `token_forwards`, `seconds`, `groups`, and the ratios
        `token_forwards_to_packed` and `seconds_to_packed`.
    """
    examples = make_examples(trajectories)
    examples = examples[:: max(1, len(examples) // limit)][:limit]
    module = ScorerModule(slm.trainable, config, sorted(reserved_ids(slm)))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with module.lent():
        for repeat in range(repeats + 1):
            for packed in (True, False):
                module.settings = replace(config, packed=packed)
                # The plain form has as many rows as candidates, so it takes one trajectory at a time.
                taken = one_pass(module, examples, config.batch_trajectories if packed else 1)
                if repeat:
                    seconds[packed].append(taken)
            if progress is not None:
                progress(repeat + 1, repeats + 1)
    rows: list[dict[str, Any]] = []
    for packed in (True, False):
        row: dict[str, Any] = {"name": "packed" if packed else "plain", "mode": config.mode}
        row["token_forwards"] = token_forwards(examples, packed=packed, whole=module.whole)
        row["seconds"] = median(seconds[packed])
        row["groups"] = group_count(examples)
        first = rows[0] if rows else row
        row |= {f"{key}_to_packed": row[key] / first[key] for key in ("token_forwards", "seconds")}
        rows.append(row)
    return {"rows": rows, "repeats": repeats, "trajectories": len(examples)}


def one_pass(module: ScorerModule, examples: Sequence[Example], batch_size: int) -> float:
    """Seconds of forward, loss and backward over all examples."""
    device = module.bin_rows.device
    start = time.perf_counter()
    for i in range(0, len(examples), batch_size):
        batch = collate(examples[i : i + batch_size], whole=module.whole)
        out = module(**{name: tensor.to(device) for name, tensor in batch.items()})
        torch.stack([value for name, value in out.items() if name != "logits"]).sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    module.zero_grad()
    return seconds
