"""Fitting a small network on hidden states of the SLM to yes-or-no labels: what the trigger and the verifier share.

Non-goals: which states and labels, and what the network looks like.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from select_to_think.models.loading import LoadedModel
from select_to_think.structures import Floats, Progress, S2TError

WORST_LOSS = 2 * math.log(2)  # mean of the last epoch: twice that of a coin is a training that went wrong
BATCH_TOKENS = 16384  # of the forwards that compute hidden states


class Reporter(TrainerCallback):
    """Passes the Trainer's steps on to a progress callback, whatever it trains."""

    def __init__(self, progress: Progress) -> None:
        """Call `progress` with (steps done, all)."""
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps)


@torch.no_grad()
def last_states(slm: LoadedModel, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> Tensor:
    """The last `counts[i]` hidden states (after the final norm) of each row of token ids, one row after the other,
    (sum of counts, H) fp32 on the host. Rows of similar length are read together."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    states = [torch.empty(0)] * len(rows)
    while order:
        size = max(1, BATCH_TOKENS // len(rows[order[-1]]))
        batch, order = order[-size:], order[:-size]
        padded = nn.utils.rnn.pad_sequence([torch.tensor(rows[i]) for i in batch], batch_first=True)  # behind: causal
        hidden = slm.trainable.base_model(input_ids=padded.to(slm.device), use_cache=False).last_hidden_state
        for line, i in enumerate(batch):
            end = len(rows[i])
            states[i] = hidden[line, end - counts[i] : end].to("cpu", torch.float32, copy=True)
    return torch.cat(states)


class WithLoss(nn.Module):
    """A network of one output, as `transformers.Trainer` wants it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, hidden: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Binary cross-entropy of (B, H) states against (B,) marks."""
        logits = self.network(hidden)[:, 0]
        return {"loss": nn.functional.binary_cross_entropy_with_logits(logits, labels.float()), "logits": logits}


def fit_head(
    network: nn.Module, hidden: Tensor, labels: Tensor, work: Path, progress: Progress | None = None, **settings: Any
) -> float:
    """Train `network`, (B, H) -> (B, 1), in place on (N, H) states and (N,) labels; returns the seconds it took.

    `settings` are those of `TrainingArguments` that the two networks do not share.

    Raises:
        S2TError: the loss diverged.
    """
    args = TrainingArguments(
        output_dir=str(work),
        lr_scheduler_type="cosine",
        save_strategy="no",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        report_to="none",
        use_cpu=True,  # the states are on the host, and the head is tiny
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        **settings,
    )
    trainer = Trainer(
        model=WithLoss(network),
        args=args,
        train_dataset=range(len(labels)),
        data_collator=lambda rows: {"hidden": hidden[rows], "labels": labels[rows]},
        callbacks=[Reporter(progress)] if progress else [],
    )
    trainer.remove_callback(PrinterCallback)
    result = trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]  # of the epochs
    if not losses[-1] <= WORST_LOSS:  # NaN compares as false
        raise S2TError(f"the loss diverged (to {losses[-1]:.3g} nats; a coin has 0.69): lower --learning-rate")
    return float(result.metrics["train_runtime"])


def roc_auc(logits: Floats, marks: np.ndarray[Any, Any]) -> float:
    """Area under the ROC curve: how often a positive is ranked above a negative. Needs both kinds."""
    positive = int(marks.sum())
    area = rankdata(logits)[marks].sum() - positive * (positive + 1) / 2
    return float(area / (positive * (len(marks) - positive)))
