"""Training the S2T-Local scorer (arXiv 2604.26940) on collected candidate groups.

The loop, schedule, precision, checkpoints, resume, logging and devices are those of `transformers.Trainer` (several
GPUs: `torchrun`). Here are the loss, the metrics and the folder.

Resuming continues from the last whole checkpoint (the end of an epoch) with weights, optimiser, schedule, random state
and early-stopping counters, so on one machine the result is that of an uninterrupted run, bit for bit on the CPU.
Checkpoints are the Trainer's own; their optimiser state is read back in torch's weights-only form, which runs no code.

Non-goals: the forwards (`module.py`, `contexts/packed.py`), reading collections.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import set_seed

from select_to_think.collect.records import Trajectory
from select_to_think.config import ScorerConfig
from select_to_think.models.loading import LoadedModel
from select_to_think.models.scorer import save_scorer
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.structures import Progress, S2TError
from select_to_think.training.folders import (
    Reporter,
    begin,
    discard,
    disk_errors,
    is_leader,
    last_checkpoint,
    publish,
    working_folder,
)
from select_to_think.training.groups import Example, collate, group_count, make_examples, split
from select_to_think.training.metrics import group_metrics, mean_metrics, summarise
from select_to_think.training.module import ScorerModule

WARMUP = 0.05  # share of the steps


def train_scorer(
    slm: LoadedModel,
    trajectories: Iterable[Trajectory],
    config: ScorerConfig,
    out: Path,
    *,
    seed: int = 0,
    resume: bool = False,
    validation: Iterable[Trajectory] | None = None,
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
        progress: called with (optimiser steps done, all).

    Returns:
        What `scorer.json` holds under `training`: counts, seconds, and per epoch `agree_at_1` (share of the held-out
        groups whose best-scored candidate is the LLM's best one), `spearman` and the losses.

    Raises:
        S2TError: bad data, a diverged loss, an existing `out`, a full disk or an unwritable path.
    """
    work = working_folder(out, resume=resume)
    train, held_out = split_data(slm, trajectories, validation)
    settings = {"config": asdict(config), "seed": seed, "slm": slm.fingerprint, "groups": group_count(train)}
    begin(work, settings)
    device = slm.model.device
    set_seed(seed)
    module = ScorerModule(slm.model, config, sorted(reserved_ids(slm)))
    try:
        with disk_errors(work):
            trainer = ScorerTrainer(module, train, held_out, arguments(config, work, seed, device), progress)
            trainer.train(resume_from_checkpoint=last_checkpoint(work) if resume else None)
            summary = summarise(trainer, module, train, held_out)
            trainer.accelerator.wait_for_everyone()
        if is_leader():
            description = describe(slm, config, seed, summary)
            publish(out, lambda folder: write(folder, module, description, work / "runs"))
            discard(work)
    finally:
        module.release()
        if is_leader() and last_checkpoint(work) is None:  # the others must not look while the leader clears up
            discard(work)
        slm.model.to(device)  # type: ignore[arg-type]
    return summary


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


def arguments(config: ScorerConfig, work: Path, seed: int, device: torch.device) -> TrainingArguments:
    """The Trainer's settings: AdamW, cosine schedule, one evaluation and one checkpoint an epoch."""
    # The plain form has as many rows as candidates, so it takes one trajectory at a time.
    micro = min(config.micro_batch or config.batch_trajectories, config.batch_trajectories) if config.packed else 1
    if config.batch_trajectories % micro:
        raise S2TError(f"micro_batch {micro} does not divide batch_trajectories {config.batch_trajectories}")
    made = TrainingArguments(
        output_dir=str(work.resolve()),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=config.batch_trajectories // micro,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="agree_at_1",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=config.report_to,
        bf16=config.bf16,
        seed=seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    made._n_gpu = min(made.n_gpu, 1)  # one process drives one GPU; DataParallel would copy the module tree
    return made


class ScorerTrainer(Trainer):
    """The Trainer with the scorer's loss, normalised exactly over accumulated batches and devices."""

    def __init__(
        self,
        module: ScorerModule,
        train: Sequence[Example],
        held_out: Sequence[Example],
        args: TrainingArguments,
        progress: Progress | None = None,
    ) -> None:
        """See `train_scorer`."""
        super().__init__(
            model=module,
            args=args,
            train_dataset=train,
            eval_dataset=held_out,
            data_collator=partial(collate, whole=module.whole),
            compute_metrics=mean_metrics,
            callbacks=[EarlyStoppingCallback(module.settings.patience)],
        )
        self.settings = module.settings
        self.model_accepts_loss_kwargs = True  # the loss is divided here, not by the number of accumulated batches
        self.remove_callback(PrinterCallback)  # it prints to stdout, which belongs to the command's result
        if progress is not None:
            self.add_callback(Reporter(progress))

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        """Batches of similar length, in random order."""
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(step, lengths=[example.length for example in self.train_dataset])  # type: ignore[union-attr]

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The batches of one optimiser step, and how many groups and prefix tokens all of them hold."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self.accelerator.reduce(sum(map(sizes, batches), torch.zeros(2)).to(device))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean over groups of cross-entropy (and KL), plus the mean over prefix tokens of the language KL."""
        out = model(**inputs)
        groups, tokens = sizes(inputs).to(out["choice"].device) if num_items_in_batch is None else num_items_in_batch
        loss = out["choice"] / groups
        if "group_kl" in out:
            loss = loss + self.settings.group_kl_weight * out["group_kl"] / groups
        if "lm_kl" in out:
            loss = loss + self.settings.lm_kl_weight * out["lm_kl"] / tokens
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, out) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and, for each trajectory, its sums of `group_metrics` (B, 4)."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            loss, out = self.compute_loss(model, inputs, return_outputs=True)
        groups = group_metrics(out["logits"].float().cpu().numpy(), inputs["llm_logprobs"].cpu().numpy())
        rows = inputs["group_rows"].cpu()
        sums = torch.zeros(len(inputs["prefix_ids"]), groups.shape[1], dtype=torch.float64)
        sums.index_add_(0, rows, torch.from_numpy(groups).double())
        return loss.detach(), sums.to(loss.device), torch.zeros(len(sums), device=loss.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Stop at once when the loss is no number any more."""
        super().log(logs, start_time)
        for name in ("loss", "eval_loss"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise S2TError(f"the loss diverged at step {self.state.global_step}: lower --learning-rate")


def sizes(batch: dict[str, Tensor]) -> Tensor:
    """(groups, real prefix tokens) of a batch, (2,) fp32."""
    return torch.tensor([len(batch["group_rows"]), batch["prefix_lengths"].sum().item()], dtype=torch.float32)


def write(folder: Path, module: ScorerModule, description: dict[str, Any], logs: Path) -> None:
    """Fill a scorer folder; TensorBoard's curves, if any, go with it."""
    save_scorer(folder, module.switch, module.bin_rows, module.anchor.item(), description)
    if logs.exists():
        shutil.copytree(logs, folder / "runs")


def describe(slm: LoadedModel, config: ScorerConfig, seed: int, summary: dict[str, Any]) -> dict[str, Any]:
    """The content of `scorer.json`."""
    return {
        "mode": config.mode,
        "score": config.score,
        "bins": config.bins,
        "score_temperature": config.score_temperature,
        "slm_fingerprint": slm.fingerprint,
        "slm": slm.name,
        "training": {**summary, "seed": seed, "config": asdict(config)},
    }
