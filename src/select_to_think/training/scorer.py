"""Training the S2T-Local scorer (arXiv 2604.26940) on collected candidate groups.

Non-goals: the loop (`trainer.py`), the forwards (`module.py`, `contexts/packed.py`), reading collections.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from transformers.trainer_utils import set_seed

from select_to_think.checked import check_number
from select_to_think.collect.records import Trajectory
from select_to_think.config import LARGEST_SEED
from select_to_think.evaluation.trained_on import write_trained_on
from select_to_think.models.loading import LoadedModel
from select_to_think.models.scorer import About, has_score, save_scorer
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.structures import Floats, Progress, S2TError
from select_to_think.training.card import public_name
from select_to_think.training.folders import begin, working_folder
from select_to_think.training.groups import collate, digest, group_count, make_examples, of_slm, split, token_forwards
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
    question_keys: Iterable[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a scorer for `slm` and write its folder to `out`; the SLM itself is left bit-identical.

    Args:
        slm: the model that proposes and scores.
        trajectories: a collection made with this SLM; a tenth of the questions is held out by a hash.
        config: mode, score, losses, optimiser.
        out: the new scorer folder (must not exist).
        seed: of the adapter's start and of the order of the data.
        resume: continue the unfinished training that lies beside `out`.
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
        args = arguments(config, work, seed, slm.trainable.device, rows=rows)
        train, held_out = split(make_examples(of_slm(slm, trajectories)))
        data = digest(
            chain.from_iterable((e.tokens, e.positions, e.candidates, e.llm_logprobs) for e in (*train, *held_out))
        )
        begin(work, {"config": config.decisive, "seed": seed, "slm": slm.fingerprint, "data": data})
        set_seed(seed)
        module = ScorerModule(slm.trainable, config, sorted(reserved_ids(slm)))

        def write(folder: Path, summary: dict[str, Any]) -> None:
            made_as = config.mode, config.score, config.bins, config.score_temperature
            training = {**summary, "seed": seed, "config": asdict(config)}
            about = About(*made_as, slm.fingerprint, public_name(slm.name), training)
            save_scorer(folder, module.switch, module.bin_rows, module.anchor.item(), about)
            write_trained_on(folder, question_keys)

        with module.lent():
            pack = partial(collate, whole=module.whole)
            trainer = ScorerTrainer(module, train, held_out, args, config.patience, pack, progress)
            return train_and_publish(trainer, work, out, resume, write)


class ScorerTrainer(AdapterTrainer):
    """Means over groups, and over prefix tokens for the language KL."""

    metrics = "agree_at_1", "spearman", "cross_entropy"
    agreement, nats = "agree_at_1", "cross_entropy"

    def sizes(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(groups, real prefix tokens)."""
        return torch.tensor([len(batch["group_rows"]), len(batch["prefix_places"])], dtype=torch.float32)

    def mean_loss(self, out: Mapping[str, Tensor], counts: Tensor) -> Tensor:
        """Mean over groups of cross-entropy (and KL), plus the mean over prefix tokens of the language KL."""
        groups, tokens = counts
        loss: Tensor = out["choice"] / groups
        module: Any = self.model
        if "group_kl" in out:
            loss = loss + module.settings.group_kl_weight * out["group_kl"] / groups
        if "lm_kl" in out:
            loss = loss + module.settings.lm_kl_weight * out["lm_kl"] / tokens
        return loss

    def measured(self, batch: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> Tensor:
        """Sums of `group_metrics` (B, 4)."""
        groups = group_metrics(out["logits"].float().cpu().numpy(), batch["llm_logprobs"].cpu().numpy())
        return row_sums(batch["group_rows"], torch.from_numpy(groups), len(batch["prefix_ids"]))

    def summary(self) -> dict[str, Any]:
        """With what was learned from, what greedy choices would agree in, and the anchor."""
        module, train, held_out = cast(Any, (self.model, self.train_dataset, self.eval_dataset))
        greedy = sum(int((e.slm_logprobs.argmax(1) == e.llm_logprobs.argmax(1)).sum()) for e in held_out)
        return {
            "trajectories": len(train),
            "groups": group_count(train),
            "validation_groups": group_count(held_out),
            "token_forwards_per_epoch": token_forwards(train, packed=module.settings.packed, whole=module.whole),
            "greedy_agree_at_1": greedy / group_count(held_out),
            **super().summary(),
            "anchor": module.anchor.item() if module.settings.score != "bins" else None,
        }


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
