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

vLLM has two runners of models, with an interface for processors each: the older one tells how its batch changes, the
newer one (the default where there is Triton, so on GPUs) has slots for requests, and tells with each step which of them
its rows are. One class serves both, under one name.

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
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotLogitsProcessor

from select_to_think.integrations.vllm.marks import OWN, Wish, lead, wish_of
from select_to_think.models.exported import read_exported
from select_to_think.probability import top_tokens, totals
from select_to_think.structures import Floats, Observation
from select_to_think.triggers.base import TriggerKind
from select_to_think.triggers.table import TRIGGERS


class PauseProcessor(LogitsProcessor, SlotLogitsProcessor):  # type: ignore[misc]
    """Masks reserved ids, pauses where a trigger fires, and shows the bins of what is scored."""

    def __init__(self, vllm_config: Any, place: Any, is_pin_memory: bool = False) -> None:
        """Read which ids are reserved, beside the weights; `place` is the device, or the newer runner's requests.

        Raises:
            S2TError: the model was not written by `s2t export --format vllm`.
        """
        exported = read_exported(Path(vllm_config.model_config.model))
        self.requests = None if isinstance(place, torch.device) else place
        self.device = place if self.requests is None else place.device
        self.pause_id = exported.pause_id
        self.reserved = torch.tensor(list(exported.reserved_ids), device=self.device, dtype=torch.long)
        self.score_ids = torch.tensor(
            list(exported.rows.bin_ids) if exported.rows else [], device=self.device, dtype=torch.long
        )
        self.written: dict[int, tuple[Wish, list[int]]] = {}  # by row, with the tokens written so far
        self.wishes: dict[int, Wish] = {}  # by slot

    def is_argmax_invariant(self) -> bool:
        """No: it changes what is written."""
        return False

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse, with a ValueError and before it reaches the engine, what is none of our wishes."""
        wished(sampling_params)

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the older runner's batch."""
        process_dict_updates(
            self.written,
            batch_update,
            lambda params, _, written: None if (wish := wished(params)) is None else (wish, written),
        )

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Follow a slot of the newer runner; whether its logits are changed."""
        self.wishes.pop(req_idx, None)
        if (wish := wished(sampling_params)) is not None:
            self.wishes[req_idx] = wish
        return wish is not None

    def rows(self, step: Any) -> dict[int, tuple[Wish, int]]:
        """By row of a step's logits, what a request wants, and how many tokens it has written."""
        if self.requests is None:
            return {row: (wish, len(written)) for row, (wish, written) in self.written.items()}
        slots, lengths = step.idx_mapping_np.tolist(), step.seq_lens_upper_bound_np.tolist()
        prompts = self.requests.prompt_len.np
        return {
            row: (self.wishes[slot], lengths[row] - int(prompts[slot]))
            for row, slot in enumerate(slots)
            if slot in self.wishes
        }

    def apply(self, logits: Tensor, step: Any = None) -> Tensor:
        """(B, V) logits in fp32, changed in place; the newer runner tells of its `step`."""
        wanted = self.rows(step)
        scoring = [row for row, (wish, _) in wanted.items() if wish.kind == "score"]
        writing = [row for row, (wish, _) in wanted.items() if wish.kind != "score"]
        if scoring:
            places = torch.tensor(scoring, device=self.device)[:, None]
            kept = logits[places, self.score_ids]
            logits[places[:, 0]] = -torch.inf
            logits[places, self.score_ids] = kept
        if writing:
            logits[torch.tensor(writing, device=self.device)[:, None], self.reserved] = -torch.inf
        watched: dict[str, dict[int, float]] = defaultdict(dict)
        for row in writing:
            wish, written = wanted[row]
            if wish.kind in TRIGGERS and written >= wish.first:
                watched[wish.kind][row] = wish.threshold
        for name, thresholds in watched.items():
            self.pause(logits, thresholds, TRIGGERS[name])
        return logits

    def pause(self, logits: Tensor, thresholds: dict[int, float], kind: TriggerKind) -> None:
        """Pause those of the rows at which a trigger fires, each at its threshold."""
        rows = list(thresholds)
        values = logits if rows == list(range(len(logits))) else logits[torch.tensor(rows, device=self.device)]
        statistics, largest = measured(values, kind)
        for place, row in enumerate(rows):
            statistic = float(statistics[place])
            if statistic > thresholds[row]:
                logits[row, self.pause_id] = largest[place] + lead(statistic)


def wished(params: Any) -> Wish | None:
    """What a request wants of the processor, if anything. Raises ValueError for what is none of our wishes."""
    own = (params.extra_args or {}).get(OWN)
    return None if own is None else wish_of(own)


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
