"""The trigger inside vLLM: a logits processor that pauses a sequence at a divergence point.

    vllm serve ... --logits-processors select_to_think.integrations.vllm.processor:PauseProcessor \\
        --logprobs-mode processed_logprobs

A request says in `SamplingParams.extra_args` what it wants of it (`extra_args`, below); others are left alone. Reserved
ids get probability zero. Where the trigger fires, the pause id, a reserved one that the request names among its
`stop_token_ids`, is made the most probable token: the sequence ends there, and the log-probabilities of that step tell
the candidates. How far it stands above the others tells the trigger's statistic (`lead`, `statistic`). A request that
scores keeps the score ids alone, so that their log-probabilities are the distribution over bins.

Log-probabilities of asked ids (`logprob_token_ids`) would do for the scores, but a step of vLLM in which one request
asks for them tells the others nothing but their sampled token (0.32), and these need their candidates.

Non-goals: hidden states, which a logits processor is not shown; going on behind a pause (`backend.py`).
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from select_to_think.integrations.vllm.marks import OWN, Wish, lead
from select_to_think.models.exported import read_exported
from select_to_think.probability import top_tokens, totals
from select_to_think.structures import Floats, Observation
from select_to_think.triggers.base import TriggerKind
from select_to_think.triggers.table import TRIGGERS


class PauseProcessor(LogitsProcessor):  # type: ignore[misc]
    """Masks reserved ids, pauses where a trigger fires, and shows the bins of what is scored."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Read which ids are reserved, beside the weights.

        Raises:
            S2TError: the model was not written by `s2t export --format vllm`.
        """
        exported = read_exported(Path(vllm_config.model_config.model))
        self.device, self.pause_id = device, exported.pause_id
        self.reserved = torch.tensor(list(exported.reserved_ids), device=device)
        self.score_ids = torch.tensor(
            list(exported.rows.bin_ids) if exported.rows else [], device=device, dtype=torch.long
        )
        self.rows: dict[int, tuple[Wish, list[int]]] = {}  # with the tokens written so far

    def is_argmax_invariant(self) -> bool:
        """No: it changes what is written."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch."""
        process_dict_updates(self.rows, batch_update, wish_of)

    def apply(self, logits: Tensor) -> Tensor:
        """(B, V) logits in fp32, changed in place."""
        scoring = [row for row, (wish, _) in self.rows.items() if wish.kind == "score"]
        writing = [row for row, (wish, _) in self.rows.items() if wish.kind != "score"]
        if scoring:
            places = torch.tensor(scoring, device=self.device)[:, None]
            kept = logits[places, self.score_ids]
            logits[places[:, 0]] = -torch.inf
            logits[places, self.score_ids] = kept
        if writing:
            logits[torch.tensor(writing, device=self.device)[:, None], self.reserved] = -torch.inf
        watched = defaultdict(list)
        for row in writing:
            wish, written = self.rows[row]
            if wish.kind in TRIGGERS and len(written) >= wish.first:
                watched[wish.kind].append(row)
        for name, rows in watched.items():
            self.pause(logits, rows, TRIGGERS[name])
        return logits

    def pause(self, logits: Tensor, rows: list[int], kind: TriggerKind) -> None:
        """Pause those of the rows at which a trigger fires."""
        values = logits if len(rows) == len(logits) else logits[torch.tensor(rows, device=self.device)]
        order = range(len(logits)) if values is logits else rows
        statistics, largest = measured(values, kind)
        for place, row in enumerate(order):
            statistic = float(statistics[place])
            if statistic > self.rows[row][0].threshold:
                logits[row, self.pause_id] = largest[place] + lead(statistic)


def wish_of(params: Any, prompt: list[int] | None, written: list[int]) -> tuple[Wish, list[int]] | None:
    """What a request wants of the processor, if anything."""
    own = (params.extra_args or {}).get(OWN)
    return None if own is None else (Wish(*own), written)


def measured(logits: Tensor, kind: TriggerKind) -> tuple[Floats, Tensor]:
    """A trigger's statistic of (P, V) logits, (P,), and the largest logits, (P,)."""
    largest = logits.amax(-1)
    log_sum, entropy = totals(logits, largest, entropy=kind.entropy)
    top = np.empty((len(logits), 0), np.float32)
    if kind.support:
        top = (top_tokens(logits, kind.support)[0] - log_sum[:, None]).cpu().numpy()
    seen = Observation(top_logprobs=top, entropy_nats=None if entropy is None else entropy.cpu().numpy())  # type: ignore[arg-type]
    assert kind.statistic is not None
    return kind.statistic(seen, None), largest
