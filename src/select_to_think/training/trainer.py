"""What training the scorer and distilling share: `transformers.Trainer` with an exact mean over optimiser steps.

The loop, schedule, precision, checkpoints, resume, logging and devices are those of the Trainer. Under `torchrun` the
processes share the trajectories of each optimiser step, so that the result is that of one process, up to rounding.

Resuming continues from the last whole checkpoint (the end of an epoch) with weights, optimiser, schedule, random state
and early-stopping counters, so on one machine the result is that of an uninterrupted run, bit for bit on the CPU.
Checkpoints are the Trainer's own; their optimiser state is read back in torch's weights-only form, which runs no code.

Non-goals: losses and metrics (`scorer.py`, `distill.py`), folders (`folders.py`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import EarlyStoppingCallback, EvalPrediction, PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from select_to_think.structures import Progress, S2TError
from select_to_think.training.card import write_card
from select_to_think.training.folders import disk_errors, is_leader, last_checkpoint, processes, publish
from select_to_think.training.head import Reporter
from select_to_think.training.memory import Memory, predict, require
from select_to_think.training.module import AdapterModule
from select_to_think.training.settings import AdapterTraining

WARMUP = 0.05  # share of the steps
CHOICE = "choice"  # the metric of the best epoch
TIE = 1e-9  # times the nats is less than what one held-out answer counts


def arguments(
    config: AdapterTraining, work: Path, seed: int, device: torch.device, *, rows: int = 0
) -> TrainingArguments:
    """The Trainer's settings: AdamW, cosine schedule, one evaluation and one checkpoint an epoch; the best is kept.

    `rows` of a forward override `config.micro_batch`.

    Raises:
        S2TError: the rows of a forward do not divide those of a step, or the reporter is not installed.
    """
    if config.report_to != "none" and find_spec(config.report_to) is None:
        raise S2TError(f"{config.report_to} is not installed: `pip install {config.report_to}`, or drop --report-to")
    share, rest = divmod(config.batch_trajectories, processes())
    micro = min(rows or config.micro_batch or share, share)
    if rest or not micro or share % micro:
        among = f" over {processes()} processes" if processes() > 1 else ""
        raise S2TError(
            f"micro_batch {micro or 1}{among} does not divide batch_trajectories {config.batch_trajectories}"
        )
    made = TrainingArguments(
        output_dir=str(work.resolve()),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=CHOICE,
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


class AdapterTrainer(Trainer):
    """Sums of losses, divided by counts over the whole optimiser step: accumulated batches and devices together.

    A subclass says what is counted (`sizes`), how sums and counts become the loss (`mean_loss`), and what an evaluation
    adds up (`measured`): ones, and what the means by `metrics` are of.
    """

    metrics: ClassVar[tuple[str, ...]]
    agreement: ClassVar[str]  # of the metrics
    nats: ClassVar[str]

    def __init__(
        self,
        module: AdapterModule,
        train: Sequence[Any],
        held_out: Sequence[Any],
        args: TrainingArguments,
        patience: int,
        collate: Callable[[Sequence[Any]], dict[str, Tensor]],
        progress: Progress | None = None,
    ) -> None:
        """Train `module` on rows that `collate` makes a batch of; their `length` is their cost in tokens."""
        super().__init__(
            model=module,
            args=args,
            train_dataset=train,
            eval_dataset=held_out,
            data_collator=collate,
            compute_metrics=self.means,
            callbacks=[EarlyStoppingCallback(patience)],
        )
        self.model_accepts_loss_kwargs = True  # the loss is divided here, not by the number of accumulated batches
        self.remove_callback(PrinterCallback)  # it prints to stdout, which belongs to the command's result
        if progress is not None:
            self.add_callback(Reporter(progress))

    def predicted(self) -> Memory | None:
        """What memory this training will need; the longest rows make the largest batch."""
        rows: list[Any] = sorted(self.train_dataset, key=lambda row: row.length)  # type: ignore[arg-type]
        batch = self.data_collator(rows[-self.args.per_device_train_batch_size :])
        counts = self.sizes(batch)
        module: Any = self.model
        return predict(
            module,
            batch,
            lambda out: self.mean_loss(out, counts),
            device=self.args.device,
            bf16=self.args.bf16,
            sums_gradients=self.args.gradient_accumulation_steps > 1,
        )

    def sizes(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the sums of a batch are divided by, (counts,) fp32."""
        raise NotImplementedError

    def mean_loss(self, out: Mapping[str, Tensor], counts: Tensor) -> Tensor:
        """The loss of a batch from what the module returned, () fp32."""
        raise NotImplementedError

    def measured(self, batch: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> Tensor:
        """What an evaluation adds up over all rows, (B, 1 + metrics)."""
        raise NotImplementedError

    def means(self, prediction: EvalPrediction) -> dict[str, float]:
        """The metrics of an evaluation."""
        count, *sums = np.asarray(prediction.predictions, np.float64).sum(0).tolist()
        means = {name: total / count for name, total in zip(self.metrics, sums, strict=True)}
        return {**means, CHOICE: self.choice(means)}

    @classmethod
    def choice(cls, means: Mapping[str, float]) -> float:
        """Higher for a better epoch: what agrees more, as decoding takes one token; among equals, fewer nats."""
        return means[cls.agreement] - TIE * means[cls.nats]

    def summary(self) -> dict[str, Any]:
        """The numbers of a finished training, as JSON."""
        epochs = self.epochs()
        best = max(epochs, key=self.choice)
        module: Any = self.model
        return {
            "trainable_parameters": sum(each.numel() for each in module.parameters() if each.requires_grad),
            "steps": self.state.global_step,
            "seconds": self.state.log_history[-1]["train_runtime"],
            **{name: best[name] for name in self.metrics},
            "best_epoch": best["epoch"],
            "epochs": epochs,
        }

    def epochs(self) -> list[dict[str, float]]:
        """Per epoch the mean training loss and what the evaluation said."""
        history = self.state.log_history
        losses = [(entry["epoch"], entry["loss"]) for entry in history if "loss" in entry]
        epochs: list[dict[str, float]] = []
        for entry in (entry for entry in history if "eval_loss" in entry):
            start = epochs[-1]["epoch"] if epochs else 0.0
            within = [loss for epoch, loss in losses if start < epoch <= entry["epoch"]]
            loss = {"train_loss": float(np.mean(within))} if within else {}
            epochs.append({"epoch": entry["epoch"], **loss, **{name: entry[f"eval_{name}"] for name in self.metrics}})
        return epochs

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        """Batches of similar length, in random order; the same for any number of processes."""
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroupedSampler(step, lengths=[example.length for example in self.train_dataset])  # type: ignore[union-attr]

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The batches of one optimiser step, and the sizes of all of them together."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self.accelerator.reduce(torch.stack([self.sizes(batch) for batch in batches]).sum(0).to(device))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one batch as its part of the optimiser step."""
        out = model(**inputs)
        counts = self.sizes(inputs).to(self.args.device) if num_items_in_batch is None else num_items_in_batch
        loss = self.mean_loss(out, counts)
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, out) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss and, for each row, what is measured."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            loss, out = self.compute_loss(model, inputs, return_outputs=True)
        sums = self.measured(inputs, out).to(loss.device)
        return loss.detach(), sums, torch.zeros(len(sums), device=loss.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Stop at once when the loss is no number any more."""
        super().log(logs, start_time)
        for name in ("loss", "eval_loss"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise S2TError(f"the loss diverged at step {self.state.global_step}: lower --learning-rate")


def row_sums(rows: Tensor, values: Tensor, count: int) -> Tensor:
    """Sums of values (N, M) by their row (N,) -> (count, M) fp64, on the host."""
    sums = torch.zeros(count, values.shape[1], dtype=torch.float64)
    return sums.index_add_(0, rows.cpu(), values.double().cpu())


def train_and_publish(
    trainer: AdapterTrainer,
    work: Path,
    out: Path,
    resume: bool,
    write: Callable[..., None],
) -> dict[str, Any]:
    """Train to the end and let `write` fill the new folder `out`; returns the summary.

    What memory the training will need is found out first, and stands in the summary under `memory`. TensorBoard's
    curves, if any, go with what was trained.

    Raises:
        S2TError: not enough memory, a diverged loss, a full disk or an unwritable path.
    """
    memory = trainer.predicted()
    if memory is not None:
        require(memory, trainer.args.device)
    with disk_errors(work):
        trainer.train(resume_from_checkpoint=last_checkpoint(work) if resume else None)
        summary = {**trainer.summary(), "memory": memory and memory.to_json()}
        trainer.accelerator.wait_for_everyone()

    def keep_curves(folder: Path) -> None:
        if (work / "runs").exists():
            shutil.copytree(work / "runs", folder / "runs")

    if is_leader():
        publish(out, partial(write, summary=summary), keep_curves, write_card)
    return summary
