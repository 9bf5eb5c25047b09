"""Training the learned trigger: a head on the SLM's last hidden state predicts which steps the KL trigger would mark.

The paper distils its trigger so (arXiv 2604.26940): a step is positive if its KL statistic lies in the top
`trigger_budget` share. The questions are split in three by a hash: most train the head; on a second share the
threshold of every budget is calibrated (the quantile table); on a third precision, recall and the budget that the
calibrated threshold really spends are measured.

Non-goals: the decision at inference (`triggers/learned.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.trainer_utils import set_seed

from select_to_think.checked import check_number
from select_to_think.collect.records import Trajectory
from select_to_think.config import LARGEST_SEED
from select_to_think.evaluation.trained_on import write_trained_on
from select_to_think.models.layers import Layers, apply_layers, fold
from select_to_think.models.loading import LoadedModel
from select_to_think.models.trigger_head import TriggerHead, save_trigger_head
from select_to_think.structures import Floats, Progress, S2TError
from select_to_think.training.card import write_card
from select_to_think.training.folders import begin, disk_errors, publish, working_folder
from select_to_think.training.groups import is_held_out, of_slm, prompt_key
from select_to_think.training.head import fit_head, last_states, roc_auc
from select_to_think.training.settings import TriggerTrainConfig
from select_to_think.triggers.calibration import QUANTILES, exceeded

CALIBRATION_SHARE = MEASURED_SHARE = 0.15
Marks = NDArray[np.bool_]


@dataclass(frozen=True)
class Steps:
    """N steps of some items."""

    hidden: Tensor  # (N, H) fp32: the state from which the step's token was chosen
    kl_nats: Floats  # (N,)


def train_trigger(
    slm: LoadedModel,
    trajectories: Iterable[Trajectory],
    config: TriggerTrainConfig,
    out: Path,
    *,
    seed: int = 0,
    question_keys: Iterable[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a head for `slm` and write its folder to `out`. The SLM is only read.

    Args:
        slm: the model whose hidden states the head reads.
        trajectories: a collection made with this SLM (its `kl_nats` are the labels).
        config: label budget, size, optimiser.
        out: the new folder (must not exist).
        seed: of the head's start and of the order of the data.
        question_keys: of all items of the collection, kept beside the head so that no test can hold one of them.
        progress: called with (optimiser steps done, all).

    Returns:
        Counts and, on steps of items that nothing was fitted to: `precision`, `recall`, `spent_budget` (fractions),
        `roc_auc`, with the KL threshold of the labels in nats.

    Raises:
        S2TError: too few items, labels of one kind only, an existing `out`, an unwritable path.
    """
    check_number("seed", seed, True, 0, LARGEST_SEED)
    with working_folder(out) as work, disk_errors(work):
        begin(work, {"config": asdict(config), "seed": seed, "slm": slm.fingerprint})
        parts = split_items(of_slm(slm, trajectories))
        steps = fit, calibration, measured = [collect_steps(slm, part) for part in parts]
        kl_threshold, labels = mark(steps, config.trigger_budget)
        layers, seconds = fit_layers(fit, labels[0], config, seed, work, progress)
        head = calibrated(layers, calibration)
        summary = {
            "trigger_budget": config.trigger_budget,
            "kl_threshold_nats": kl_threshold,
            "items": [len(part) for part in parts],
            "steps": [len(part.kl_nats) for part in steps],
            "seconds": seconds,
            **quality(head(measured.hidden.numpy()), labels[2], exceeded(head.quantiles, config.trigger_budget)),
            "seed": seed,
            "config": asdict(config),
        }

        def write(folder: Path) -> None:
            save_trigger_head(folder, head, slm, summary)
            write_trained_on(folder, question_keys)

        publish(out, write, write_card)
    return summary


def mark(parts: Sequence[Steps], budget: float) -> tuple[float, list[Marks]]:
    """The KL in nats that a share `budget` of the first part's steps exceeds, and which steps of each part do.

    Raises:
        S2TError: in some part all steps or none.
    """
    threshold = float(np.quantile(parts[0].kl_nats, 1 - budget))
    labels = [part.kl_nats > threshold for part in parts]
    if not all(0 < marks.sum() < len(marks) for marks in labels):
        raise S2TError("the trigger's labels are all of one kind: collect more items or change --trigger-budget")
    return threshold, labels


def fit_layers(
    steps: Steps, labels: Marks, config: TriggerTrainConfig, seed: int, work: Path, progress: Progress | None
) -> tuple[Layers, float]:
    """Train a head with one hidden layer (or none); its layers, and the seconds it took."""
    set_seed(seed)
    sizes = [steps.hidden.shape[1], *([config.hidden_size] if config.hidden_size else []), 1]
    modules = [module for a, b in pairwise(sizes) for module in (nn.Linear(a, b), nn.ReLU())][:-1]
    mean, spread = steps.hidden.mean(0), steps.hidden.std(0).clamp_min(1e-6)
    seconds = fit_head(
        nn.Sequential(*modules),
        (steps.hidden - mean) / spread,
        torch.from_numpy(labels),
        work,
        progress,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_steps,
        learning_rate=config.learning_rate,
        seed=seed,
    )
    (weight, bias), *others = fold(modules)  # the first layer shall standardise by itself
    scaled = weight.astype(np.float64) / spread.double().numpy()
    shifted = bias - scaled @ mean.double().numpy()
    return ((scaled.astype(np.float32), shifted.astype(np.float32)), *others), seconds


def calibrated(layers: Layers, steps: Steps) -> TriggerHead:
    """The head with the quantiles of its logit over `steps`."""
    logits = apply_layers(layers, steps.hidden.numpy())
    return TriggerHead(layers, np.quantile(logits, np.linspace(0, 1, QUANTILES)).astype(np.float32))


def split_items(trajectories: Iterable[Trajectory]) -> tuple[list[Trajectory], list[Trajectory], list[Trajectory]]:
    """(to fit, to calibrate, to measure), by question.

    Raises:
        S2TError: a part is empty.
    """
    parts: tuple[list[Trajectory], list[Trajectory], list[Trajectory]] = ([], [], [])
    for each in trajectories:
        key = prompt_key(each.prompt_ids)
        measured = is_held_out(key, MEASURED_SHARE / (1 - CALIBRATION_SHARE), salt="measure")
        parts[1 if is_held_out(key, CALIBRATION_SHARE, salt="calibrate") else 2 * measured].append(each)
    if not all(parts):
        raise S2TError(f"{sum(map(len, parts))} trajectories are too few to hold some out: collect more items")
    return parts


def collect_steps(slm: LoadedModel, trajectories: Sequence[Trajectory]) -> Steps:
    """Every output step, with the state of the base SLM before its token."""
    before = [(*each.prompt_ids, *each.output_ids[:-1]) for each in trajectories]
    hidden = last_states(slm, before, [len(each.output_ids) for each in trajectories])
    return Steps(hidden, np.concatenate([np.array(each.kl_nats, np.float32) for each in trajectories]))


def quality(logits: Floats, marks: Marks, threshold: float) -> dict[str, float]:
    """Precision, recall and spent budget of firing above `threshold`, and the area under the ROC curve."""
    fired = logits > threshold
    positive, hits = int(marks.sum()), int((fired & marks).sum())
    return {
        "precision": hits / max(1, int(fired.sum())),
        "recall": hits / positive,
        "spent_budget": float(fired.mean()),
        "positive_share": float(marks.mean()),
        "roc_auc": roc_auc(logits, marks),
    }
