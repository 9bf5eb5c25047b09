"""Training the S2T-Local scorer (arXiv 2604.26940) on collected candidate groups.

Non-goals: the loop (`trainer.py`), the forwards (`module.py`, `contexts/packed.py`), reading collections.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments
from transformers.trainer_utils import set_seed

from select_to_think.checked import check_number
from select_to_think.collect.records import Trajectory
from select_to_think.config import LARGEST_SEED
from select_to_think.evaluation.trained_on import write_trained_on
from select_to_think.models.loading import LoadedModel
from select_to_think.models.scorer import About, has_score, save_scorer
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.structures import Progress, S2TError
from select_to_think.training.folders import begin, working_folder
from select_to_think.training.groups import Example, collate, group_count, make_examples, split
from select_to_think.training.metrics import group_metrics, mean_metrics, summarise
from select_to_think.training.module import ScorerModule
from select_to_think.training.settings import ScorerConfig
from select_to_think.training.trainer import AdapterTrainer, arguments, row_sums, train_and_publish


def train_scorer(
    slm: LoadedModel,
    trajectories: Iterable[Trajectory],
    config: ScorerConfig,
    out: Path,
    *,
    seed: int = 0,
    resume: bool = False,
    validation: Iterable[Trajectory] | None = None,
    question_keys: Iterable[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a scorer for `slm` and write its folder to `out`; the SLM itself is left bit-identical.

    Args:
        slm: the model that proposes and scores.
        trajectories: a collection made with this SLM.
        config: mode, score, losses, optimiser.
        out: the new scorer folder (must not exist).
        seed: of the adapter's start and of the order of the data.
        resume: continue the unfinished training that lies beside `out`.
        validation: a collection from other items; without one, a tenth of the items is held out by a hash of the id.
        question_keys: of all items of the collections, kept beside the scorer so that no test can hold one of them.
        progress: called with (optimiser steps done, all).

    Returns:
        What `scorer.json` holds under `training`: counts, seconds, and per epoch `agree_at_1` (share of the held-out
        groups whose best-scored candidate is the LLM's best one), `spearman` and the losses.

    Raises:
        S2TError: a score that the mode cannot have, bad data, a diverged loss, an existing `out`, a full disk or an
            unwritable path.
    """
    check_number("seed", seed, True, 0, LARGEST_SEED)
    if not has_score(config.mode, config.score):
        raise S2TError(f"the score adapted reads a context of its own: train with --mode proposer, not {config.mode}")
    with working_folder(out, resume=resume) as work:
        rows = 0 if config.packed else 1  # the plain form has as many rows as candidates
        args = arguments(config, work, seed, slm.trainable.device, best="agree_at_1", greater=True, rows=rows)
        train, held_out = split_data(slm, trajectories, validation)
        settings = {"config": asdict(config), "seed": seed, "slm": slm.fingerprint, "groups": group_count(train)}
        begin(work, settings)
        set_seed(seed)
        module = ScorerModule(slm.trainable, config, sorted(reserved_ids(slm)))

        def write(folder: Path, summary: dict[str, Any]) -> None:
            about = describe(slm, config, seed, summary)
            save_scorer(folder, module.switch, module.bin_rows, module.anchor.item(), about)
            write_trained_on(folder, question_keys)

        with module.lent():
            trainer = ScorerTrainer(module, train, held_out, args, progress)
            measured = partial(summarise, trainer, module, train, held_out)
            return train_and_publish(trainer, work, out, resume, measured, write)


def split_data(
    slm: LoadedModel, trajectories: Iterable[Trajectory], validation: Iterable[Trajectory] | None
) -> tuple[list[Example], list[Example]]:
    """(training, validation) examples, checked against the SLM's vocabulary.

    Raises:
        S2TError: items on both sides, or ids beyond the vocabulary.
    """
    train = make_examples(trajectories)
    if validation is None:
        train, held_out = split(train)
    else:
        held_out = make_examples(validation)
        shared = {e.item_id for e in train} & {e.item_id for e in held_out}
        if shared:
            raise S2TError(f"item {min(shared)!r} is in both collections: validate on other items")
    largest = max(int(max(e.tokens.max(), e.candidates.max())) for e in (*train, *held_out))
    if largest >= slm.vocab_size:
        raise S2TError(
            f"the collection holds token {largest}, {slm.name} has {slm.vocab_size}: collect with the SLM to be trained"
        )
    return train, held_out


class ScorerTrainer(AdapterTrainer):
    """Means over groups, and over prefix tokens for the language KL."""

    def __init__(
        self,
        module: ScorerModule,
        train: Sequence[Example],
        held_out: Sequence[Example],
        args: TrainingArguments,
        progress: Progress | None = None,
    ) -> None:
        """See `train_scorer`."""
        self.settings = module.settings
        pack = partial(collate, whole=module.whole)
        super().__init__(module, train, held_out, args, self.settings.patience, pack, mean_metrics, progress)

    def sizes(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(groups, real prefix tokens)."""
        return torch.tensor([len(batch["group_rows"]), len(batch["prefix_places"])], dtype=torch.float32)

    def mean_loss(self, out: Mapping[str, Tensor], counts: Tensor) -> Tensor:
        """Mean over groups of cross-entropy (and KL), plus the mean over prefix tokens of the language KL."""
        groups, tokens = counts
        loss: Tensor = out["choice"] / groups
        if "group_kl" in out:
            loss = loss + self.settings.group_kl_weight * out["group_kl"] / groups
        if "lm_kl" in out:
            loss = loss + self.settings.lm_kl_weight * out["lm_kl"] / tokens
        return loss

    def measured(self, batch: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> Tensor:
        """Sums of `group_metrics` (B, 4)."""
        groups = group_metrics(out["logits"].float().cpu().numpy(), batch["llm_logprobs"].cpu().numpy())
        return row_sums(batch["group_rows"], torch.from_numpy(groups), len(batch["prefix_ids"]))


def describe(slm: LoadedModel, config: ScorerConfig, seed: int, summary: dict[str, Any]) -> About:
    """The content of `scorer.json`."""
    training = {**summary, "seed": seed, "config": asdict(config)}
    return About(config.mode, config.score, config.bins, config.score_temperature, slm.fingerprint, slm.name, training)
