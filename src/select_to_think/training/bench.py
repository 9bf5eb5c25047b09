"""What packing saves: token-forwards and seconds of the packed and of the plain form, on the same groups in one run.

Seconds are those of the processor on a CPU, so that other programs do not count, and of the clock on a GPU.

Non-goals: quality; both forms have the same loss and gradients (a test).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from select_to_think.collect.records import Trajectory
from select_to_think.models.loading import LoadedModel, choose_device, choose_dtype
from select_to_think.models.shapes import random_model
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.structures import Floats, Progress, S2TError
from select_to_think.training.groups import Example, collate, group_count, make_examples, of_slm, token_forwards
from select_to_think.training.memory import predict
from select_to_think.training.module import ScorerModule
from select_to_think.training.settings import ScorerConfig, TrainShape

Batches = Sequence[Sequence[Example]]


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
    whole = make_examples(of_slm(slm, trajectories))
    examples = [whole[i] for i in np.linspace(0, len(whole) - 1, min(limit, len(whole))).round().astype(int)]
    module = ScorerModule(slm.trainable, config, sorted(reserved_ids(slm)))
    size = config.batch_trajectories
    packed = [examples[i : i + size] for i in range(0, len(examples), size)]
    plain = [[each] for each in examples]  # as many rows as candidates: one trajectory at a time
    rows = compare(module, examples, packed, plain, 1.0, repeats, progress)
    return {"rows": rows, "repeats": repeats, "trajectories": len(examples)}


def bench_shape(
    shape: TrainShape, config: ScorerConfig, device: str, *, repeats: int = 3, progress: Progress | None = None
) -> dict[str, Any]:
    """The same on one trajectory of a published shape with random weights.

    The plain form is timed on `plain_rows` of its rows, spread evenly over the trajectory and each by itself, without
    padding; the seconds of all rows follow from them.

    Returns:
        As `bench_train`; `predicted_bytes` is the peak memory of the packed pass beside the weights.

    Raises:
        S2TError: an unknown shape, no such device, or the coupled mode, of which rows are not all of the work.
    """
    if config.mode == "coupled":
        raise S2TError("a slice of rows does not tell what the coupled mode costs: choose --mode proposer or activated")
    device = choose_device(device)
    model = random_model(shape.shape, device, choose_dtype("auto", device))
    module = ScorerModule(model, config, [])
    whole = shaped_example(shape, model)
    leaves = [
        (position, candidate)
        for position, group in zip(whole.positions.tolist(), whole.candidates.tolist(), strict=True)
        for candidate in group
    ]
    chosen = [leaves[i] for i in np.linspace(0, len(leaves) - 1, shape.plain_rows).round().astype(int)]
    slice_of_rows = [[one_leaf(whole, *leaf)] for leaf in chosen]
    scale = len(leaves) / len(chosen)
    rows = compare(module, [whole], [[whole]], slice_of_rows, scale, repeats, progress)
    memory = predict(module, collate([whole], whole=False), losses, device=model.device, bf16=config.bf16)
    rows[0]["predicted_bytes"] = memory and memory.step
    rows[1]["predicted_bytes"] = None
    return {"rows": rows, "repeats": repeats, "trajectories": 1, "plain_rows": len(chosen)}


def shaped_example(shape: TrainShape, model: PreTrainedModel) -> Example:
    """A trajectory of random tokens, its groups spread evenly over it."""
    random = np.random.default_rng(0)
    vocabulary = int(model.config.get_text_config().vocab_size)
    positions = np.linspace(shape.tokens / shape.groups, shape.tokens, shape.groups).round().astype(np.int64)
    logprobs: Floats = np.full((shape.groups, shape.group_size), -2.0, np.float32)
    candidates = random.integers(0, vocabulary, logprobs.shape)
    return Example(
        "shape", random.integers(0, vocabulary, shape.tokens), positions, candidates, logprobs, logprobs.copy()
    )


def one_leaf(example: Example, position: int, candidate: int) -> Example:
    """A trajectory with one candidate of one of its groups."""
    logprobs: Floats = np.zeros((1, 1), np.float32)
    return Example("leaf", example.tokens[:position], np.array([position]), np.array([[candidate]]), logprobs, logprobs)


def compare(
    module: ScorerModule,
    examples: Sequence[Example],
    packed: Batches,
    plain: Batches,
    scale: float,
    repeats: int,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """The two rows; `plain` is a `scale`-th part of the plain form's work."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    config = module.settings
    with module.lent():
        for repeat in range(repeats + 1):
            for form, batches, factor in ((True, packed, 1.0), (False, plain, scale)):
                module.settings = replace(config, packed=form)
                taken = one_pass(module, batches) * factor
                if repeat:
                    seconds[form].append(taken)
            if progress is not None:
                progress(repeat + 1, repeats + 1)
    module.settings = config
    rows: list[dict[str, Any]] = []
    for form in (True, False):
        row: dict[str, Any] = {"name": "packed" if form else "plain", "mode": config.mode}
        row["token_forwards"] = token_forwards(examples, packed=form, whole=module.whole)
        row["seconds"] = median(seconds[form])
        row["groups"] = group_count(examples)
        first = rows[0] if rows else row
        row |= {f"{key}_to_packed": row[key] / first[key] for key in ("token_forwards", "seconds")}
        rows.append(row)
    return rows


def losses(out: Any) -> torch.Tensor:
    """The sum of all losses that the module returned."""
    return torch.stack([value for name, value in out.items() if name != "logits"]).sum()


def one_pass(module: ScorerModule, batches: Batches) -> float:
    """Seconds of forward, loss and backward over all batches."""
    device = module.bin_rows.device
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    for examples in batches:
        batch = collate(examples, whole=module.whole)
        with torch.autocast(device.type, torch.bfloat16, enabled=module.settings.bf16):
            losses(module(**{name: tensor.to(device) for name, tensor in batch.items()})).backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = clock() - start
    module.zero_grad()
    return seconds
