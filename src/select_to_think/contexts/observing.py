"""From hidden states of a forward to `Observation`s: batched on the device, small arrays back.

Non-goals: running models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from select_to_think import probability
from select_to_think.structures import Observation, Observe, S2TError, Sampling

MOST_LOGITS = 1 << 27  # at a time: 512 MiB in fp32
SURELY_FEW = 256  # lines whose logits fit at any size of the vocabulary
NOT_A_NUMBER = "the model produced NaN logits: try --dtype float32 or bfloat16, or check the checkpoint"


@dataclass(frozen=True, slots=True)
class Look:
    """What is asked of the tokens `lines` of a forward, of which the first is number `first` of those asked about."""

    observe: Observe
    lines: Sequence[int]
    adapter: str | None = None
    first: int = 0

    @property
    def needs_logits(self) -> bool:
        """Whether the vocabulary head must run."""
        observe = self.observe
        return bool(observe.top_k or observe.entropy or observe.ids is not None or observe.sampling)

    @property
    def asked(self) -> Sequence[Sequence[int]]:
        """The asked ids of each line."""
        ids = self.observe.ids
        return [()] * len(self.lines) if ids is None else ids[self.first : self.first + len(self.lines)]


def read(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    looks: Sequence[Look],
    forbidden: Tensor,
    bin_rows: Mapping[str, Tensor],
    before_head: Tensor | None = None,
) -> tuple[list[Observation | S2TError], np.ndarray]:
    """What each look asked of the hidden states (T, H) of a forward, after the final norm; which tokens (T,) are NaN.

    `before_head` (T, ...) is what `head` makes logits of, if these are not the hidden states.

    Everything is computed before anything is brought to the host, so the device is waited for once. A line whose
    distribution is not a number is the error of its own look.
    """
    tensors: dict[str, Tensor] = {"nan": hidden.isnan().any(-1)}
    distributions = [look for look in looks if look.needs_logits]
    if distributions:
        tensors |= read_distributions(hidden if before_head is None else before_head, head, distributions, forbidden)
    for adapter in {look.adapter for look in looks if look.observe.bins}:
        lines = [line for look in looks if look.observe.bins and look.adapter == adapter for line in look.lines]
        tensors[f"bins {adapter}"] = probability.expected_bin(hidden[lines], bin_rows[adapter or ""])
    if states := [line for look in looks if look.observe.hidden for line in look.lines]:
        tensors["hidden"] = hidden[states].float()
    cursor = Cursor(to_host(tensors))
    return [cursor.observation(look) for look in looks], cursor.read["nan"]


def read_distributions(
    hidden: Tensor, head: Callable[[Tensor], Tensor], looks: Sequence[Look], forbidden: Tensor
) -> dict[str, Tensor]:
    """Top tokens, asked log-probabilities, entropies and draws of the looks' N lines, in the order of the looks."""
    device, observes = hidden.device, [look.observe for look in looks for _ in look.lines]
    states = hidden[torch.tensor([line for look in looks for line in look.lines], device=device)]  # (N, H)
    asked = [ids for look in looks for ids in look.asked]
    width = max(map(len, asked))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in asked], dtype=torch.long, device=device)  # (N, A)
    unsure = torch.tensor([i for i, observe in enumerate(observes) if observe.entropy], device=device)
    draws = [look.observe.sampling if line == look.lines[-1] else None for look in looks for line in look.lines]
    drawn = [(i, draw) for i, draw in enumerate(draws) if draw]
    biases = [(i, token, nats) for i, observe in enumerate(observes) for token, nats in observe.bias]
    top_k = max(observe.top_k for observe in observes)
    size = max(1, MOST_LOGITS // head(states[:1]).shape[-1]) if len(states) > SURELY_FEW else len(states)
    parts = []
    for start in range(0, len(states), size):
        logits = probability.permitted(head(states[start : start + size]), forbidden)  # (n, V)
        if here := [(i - start, token, nats) for i, token, nats in biases if start <= i < start + size]:
            add_bias(logits, *zip(*here, strict=True))
        total = torch.logsumexp(logits, -1, keepdim=True)
        part = {"total": total[:, 0]}
        if top_k:
            part["top_ids"], values = best(logits, min(top_k, logits.shape[-1]))
            part["top_logprobs"] = values - total
        if width:
            part["asked"] = logits.gather(-1, ids[start : start + size]) - total
        if len(unsure):
            rows = unsure[(unsure >= start) & (unsure < start + size)] - start if size < len(states) else unsure
            logprobs = logits - total if len(rows) == len(logits) else logits[rows] - total[rows]
            part["entropy"] = probability.entropy_nats(logprobs)
        if now := [(i - start, draw) for i, draw in drawn if start <= i < start + size]:
            places, settings = zip(*now, strict=True)
            part["sampled_ids"], part["sampled_logprobs"] = sample((logits - total)[list(places)], settings)
        parts.append(part)
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}


def add_bias(logits: Tensor, lines: Sequence[int], tokens: Sequence[int], nats: Sequence[float]) -> None:
    """Add `nats` to the logits (N, V) of `tokens` on `lines`, in place."""
    places = tuple(torch.tensor(indices, device=logits.device) for indices in (lines, tokens))
    logits.index_put_(places, torch.tensor(nats, dtype=logits.dtype, device=logits.device), accumulate=True)


def best(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top-k of (N, V), best first -> ids (N, k), values (N, k)."""
    values, ids = logits.max(-1, keepdim=True) if k == 1 else logits.topk(k, -1)
    return ids, values


def sample(logprobs: Tensor, draws: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """Draw a token on each line of (B, V) -> tokens (B,), their log-probabilities (B,)."""
    names = ("uniform", "temperature", "top_p", "top_k", "min_p")
    settings = [torch.tensor([getattr(draw, name) for draw in draws], device=logprobs.device) for name in names]
    tokens = probability.draw(logprobs, *settings)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """All tensors on the host, with one synchronisation."""
    moved = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
    if any(tensor.is_cuda for tensor in tensors.values()):
        torch.cuda.current_stream().synchronize()
    return {name: tensor.numpy() for name, tensor in moved.items()}


class Cursor:
    """Deals the lines of what was read out to the looks, in their order."""

    def __init__(self, read: Mapping[str, np.ndarray]) -> None:
        self.read, self.dealt = read, dict.fromkeys(read, 0)
        self.line = 0  # of the distributions
        broken = ~np.isfinite(read["total"]) if "total" in read else np.zeros(0, bool)
        self.broken: np.ndarray | None = broken if broken.any() else None

    def take(self, name: str, count: int) -> np.ndarray:
        """The next `count` lines of `name`."""
        start = self.dealt[name]
        self.dealt[name] = start + count
        return self.read[name][start : start + count]

    def observation(self, look: Look) -> Observation | S2TError:
        """The look's own lines and fields."""
        observe, count = look.observe, len(look.lines)
        seen: dict[str, Any] = {}
        failed = False
        if look.needs_logits:
            lines = slice(self.line, self.line + count)
            self.line = lines.stop
            failed = self.broken is not None and bool(self.broken[lines].any())
            if observe.top_k:
                seen["top_ids"] = self.read["top_ids"][lines, : observe.top_k]
                seen["top_logprobs"] = self.read["top_logprobs"][lines, : observe.top_k]
            if observe.ids is not None:
                seen["asked_logprobs"] = self.read["asked"][lines, : len(look.asked[0])]
        if observe.entropy:
            seen["entropy_nats"] = self.take("entropy", count)
        if observe.sampling:
            seen["sampled_id"] = int(self.take("sampled_ids", 1)[0])
            seen["sampled_logprob"] = float(self.take("sampled_logprobs", 1)[0])
        if observe.bins:
            seen["bin_scores"] = self.take(f"bins {look.adapter}", count)
            failed |= not np.isfinite(seen["bin_scores"]).all()
        if observe.hidden:
            seen["hidden"] = self.take("hidden", count)
        return S2TError(NOT_A_NUMBER) if failed else Observation(**seen)


def joined(parts: Sequence[Observation]) -> Observation:
    """The observation of a request whose positions were seen in several forwards."""
    if len(parts) == 1:
        return parts[0]
    values = {spec.name: [getattr(part, spec.name) for part in parts] for spec in fields(Observation)}
    whole: dict[str, Any] = {
        name: np.concatenate(found) if isinstance(found[-1], np.ndarray) else found[-1]
        for name, found in values.items()
    }
    return Observation(**whole)
