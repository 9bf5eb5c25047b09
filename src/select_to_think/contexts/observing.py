"""From hidden states and logits to `Observation`s: batched on the device, small arrays back.

Non-goals: running models. The tensors here hold one line per observed position, of all rows of a forward.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from select_to_think import probability
from select_to_think.structures import Observation, Observe, S2TError, Sampling


def needs_logits(observe: Observe) -> bool:
    """Whether the vocabulary head must run."""
    return bool(observe.top_k or observe.entropy or observe.ids is not None or observe.sampling)


def best(logprobs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top-k of (N, V), best first -> ids (N, k), values (N, k)."""
    if k == 1:
        values, ids = logprobs.max(-1, keepdim=True)
    else:
        values, ids = logprobs.topk(k, -1)
    return ids, values


def read_logits(
    logits: Tensor, observes: Sequence[Observe], counts: Sequence[int], forbidden: Tensor
) -> list[Observation]:
    """Read what each row asked from logits (N, V); row i owns `counts[i]` consecutive lines.

    Raises:
        S2TError: a log-probability is not a number.
    """
    logprobs = probability.log_probabilities(logits, forbidden)  # (N, V)
    if torch.isnan(logprobs[:, :1]).any():
        raise S2TError("the model produced NaN logits: try --dtype float32 or bfloat16, or check the checkpoint")
    top_k = max(observe.top_k for observe in observes)
    if top_k > logprobs.shape[-1]:
        raise S2TError(f"{top_k} candidates asked of a vocabulary of {logprobs.shape[-1]} tokens: lower --candidates")
    top_ids, top_values = (t.cpu().numpy() for t in best(logprobs, top_k)) if top_k else (None, None)
    entropies = probability.entropy_nats(logprobs).cpu().numpy() if any(o.entropy for o in observes) else None
    starts = np.concatenate([[0], np.cumsum(counts)])
    sampled = sample_rows(logprobs, [(starts[i + 1] - 1, o.sampling) for i, o in enumerate(observes) if o.sampling])
    observations = []
    for i, observe in enumerate(observes):
        lines = slice(starts[i], starts[i + 1])
        k = observe.top_k
        token, token_logprob = sampled.get(int(starts[i + 1] - 1), (None, None)) if observe.sampling else (None, None)
        observations.append(
            Observation(
                top_ids=top_ids[lines, :k] if k and top_ids is not None else None,
                top_logprobs=top_values[lines, :k] if k and top_values is not None else None,
                entropy_nats=entropies[lines] if observe.entropy and entropies is not None else None,
                asked_logprobs=None if observe.ids is None else gather_ids(logprobs[lines], observe.ids),
                sampled_id=token,
                sampled_logprob=token_logprob,
            )
        )
    return observations


def gather_ids(logprobs: Tensor, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Log-probabilities of asked ids, (P, V) and P lists of one length -> (P, asked)."""
    asked: np.ndarray = logprobs.gather(-1, torch.tensor(ids, device=logprobs.device)).cpu().numpy()
    return asked


def sample_rows(logprobs: Tensor, asks: Sequence[tuple[int, Sampling]]) -> dict[int, tuple[int, float]]:
    """Draw a token on each asked line -> {line: (token, log-probability)}."""
    if not asks:
        return {}
    lines = torch.tensor([line for line, _ in asks], device=logprobs.device)
    chosen = logprobs[lines]  # (B, V)
    fields = ("uniform", "temperature", "top_p", "top_k", "min_p")
    settings = [torch.tensor([getattr(s, name) for _, s in asks], device=logprobs.device) for name in fields]
    tokens = probability.draw(chosen, *settings)  # (B,)
    values = chosen.gather(-1, tokens[:, None]).squeeze(-1)
    return {line: (t, v) for (line, _), t, v in zip(asks, tokens.tolist(), values.tolist(), strict=True)}
