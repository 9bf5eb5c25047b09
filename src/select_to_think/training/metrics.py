"""How well a scorer agrees with the LLM, per group and over a validation set; and the summary of a training.

Non-goals: accuracy of whole answers (`evaluation/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata
from transformers import EvalPrediction, Trainer

from select_to_think.structures import Floats
from select_to_think.training.groups import Example, group_count, token_forwards
from select_to_think.training.module import ScorerModule
from select_to_think.training.trainer import epochs_of


def group_metrics(logits: Floats, llm_logprobs: Floats) -> Floats:
    """Per group (1, agreement, Spearman's rho, cross-entropy), (G, K) x (G, K) -> (G, 4).

    Agreement: the best-scored candidate is the LLM's best one. Rho compares the two rankings of the candidates (ties
    share ranks) and is 0 where one of them is constant.
    """
    best = llm_logprobs.argmax(1)
    ranks = [rankdata(values, axis=1) for values in (logits, llm_logprobs)]
    x, y = (r - r.mean(1, keepdims=True) for r in ranks)
    scale = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    rho = np.divide((x * y).sum(1), scale, out=np.zeros(len(x)), where=scale > 0)
    shifted = logits - logits.max(1, keepdims=True)
    entropy = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(best)), best]
    return np.stack([np.ones(len(best)), logits.argmax(1) == best, rho, entropy], 1).astype(np.float32)


def mean_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Means over all held-out groups of the sums (trajectories, 4) that `prediction_step` returned."""
    groups, agree, rho, entropy = np.asarray(prediction.predictions).sum(0).tolist()
    return {"agree_at_1": agree / groups, "spearman": rho / groups, "cross_entropy": entropy / groups}


def summarise(
    trainer: Trainer, module: ScorerModule, train: Sequence[Example], held_out: Sequence[Example]
) -> dict[str, Any]:
    """The numbers of a finished training, as JSON."""
    epochs = epochs_of(trainer, ("loss", "cross_entropy", "agree_at_1", "spearman"))
    best = max(epochs, key=lambda epoch: epoch["agree_at_1"])
    greedy = sum(int((e.slm_logprobs.argmax(1) == e.llm_logprobs.argmax(1)).sum()) for e in held_out)
    forwards = token_forwards(train, packed=module.settings.packed, whole=module.whole)
    return {
        "trajectories": len(train),
        "groups": group_count(train),
        "validation_groups": group_count(held_out),
        "trainable_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "steps": trainer.state.global_step,
        "seconds": trainer.state.log_history[-1]["train_runtime"],
        "token_forwards_per_epoch": forwards,
        "greedy_agree_at_1": greedy / group_count(held_out),
        "agree_at_1": best["agree_at_1"],
        "spearman": best["spearman"],
        "best_epoch": best["epoch"],
        "anchor": module.anchor.item() if module.settings.score != "bins" else None,
        "epochs": epochs,
    }
