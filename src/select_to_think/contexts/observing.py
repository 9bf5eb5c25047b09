"""From hidden states of a forward to `Observation`s: batched on the device, small arrays back.

Non-goals: running models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from select_to_think import probability
from select_to_think.contexts.layout import on_device
from select_to_think.structures import Observation, Observe, S2TError, Sampling

MOST_LOGITS = 1 << 27  # of the head at a time: 512 MiB in fp32
SURELY_FEW = 256  # lines whose logits fit at any size of the vocabulary
IN_CACHE = 1 << 19  # logits read at a time on a CPU
HEAD = {"cpu": 64, "cuda": 1024}  # most probable tokens among which a draw is looked for first; a miss costs a wait
NOT_A_NUMBER = "the model produced NaN logits: try --dtype float32 or bfloat16, or check the checkpoint"


@dataclass(slots=True)
class Look:
    """What is asked of the tokens `lines` of a forward, of which the first is number `first` of those asked about."""

    observe: Observe
    lines: Sequence[int]
    adapter: str | None
    first: int

    @property
    def asked(self) -> Sequence[Sequence[int]]:
        """The asked ids of each line."""
        ids = self.observe.ids
        return [()] * len(self.lines) if ids is None else ids[self.first : self.first + len(self.lines)]


@dataclass(slots=True)
class Draws:
    """Tokens to be drawn on B lines, the first of which is number `first` of all that are drawn on."""

    first: int
    logprobs: Tensor  # (B, V)
    settings: Tensor  # (5, B), of `probability.draw`

    def among(self, head: int) -> dict[str, Tensor]:
        """Tokens drawn among the `head` most probable ones, their log-probabilities, and whether they are the drawn."""
        tokens, found = probability.draw(self.logprobs, self.settings, head)
        logprobs = self.logprobs.gather(-1, tokens[:, None])[:, 0]
        return {"sampled_ids": tokens, "sampled_logprobs": logprobs, "sampled_found": found}

    def complete(self, host: Mapping[str, np.ndarray]) -> None:
        """Draw those again, among more tokens, that were not found."""
        device, mine = self.logprobs.device, slice(self.first, self.first + len(self.logprobs))
        head = HEAD[device.type]
        while len(missed := np.flatnonzero(~host["sampled_found"][mine])):
            head *= 16
            rows = on_device(missed, device)
            again = Draws(0, self.logprobs[rows], self.settings[:, rows])
            for name, values in to_host(again.among(head)).items():
                host[name][mine][missed] = values


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

    Everything is computed before anything is brought to the host, so the device is waited for once, but for draws that
    fall behind the most probable tokens. A line whose distribution is not a number is the error of its own look.
    """
    tensors: dict[str, Tensor] = {"largest": hidden.amax(-1).float()}
    draws: list[Draws] = []
    if distributions := [look for look in looks if look.observe.logits]:
        found, draws = read_distributions(
            hidden if before_head is None else before_head, head, distributions, forbidden
        )
        tensors |= found
    for adapter in {look.adapter for look in looks if look.observe.bins}:
        lines = [line for look in looks if look.observe.bins and look.adapter == adapter for line in look.lines]
        tensors[f"bins {adapter}"] = probability.expected_bin(pick(hidden, lines), bin_rows[adapter or ""])
    if states := [line for look in looks if look.observe.hidden for line in look.lines]:
        tensors["hidden"] = pick(hidden, states).float()
    host = to_host(tensors)
    for drawn in draws:
        drawn.complete(host)
    cursor = Cursor(host)
    return [cursor.observation(look) for look in looks], np.isnan(host["largest"])


def read_distributions(
    hidden: Tensor, head: Callable[[Tensor], Tensor], looks: Sequence[Look], forbidden: Tensor
) -> tuple[dict[str, Tensor], list[Draws]]:
    """Top tokens, asked log-probabilities, entropies and draws of the looks' N lines, in the order of the looks."""
    device, observes = hidden.device, [look.observe for look in looks for _ in look.lines]
    kinds = {id(observe): observe for observe in observes}.values()  # few: rows of one policy share theirs
    top_k = max(observe.top_k for observe in kinds)
    asked = [ids for look in looks for ids in look.asked] if any(observe.ids for observe in kinds) else []
    width = max(map(len, asked), default=0)
    ids = on_device([[*row, *[0] * (width - len(row))] for row in asked], device) if width else None  # (N, A)
    drawn: dict[int, Sampling] = {}
    if any(observe.sampling for observe in kinds):
        ends = accumulate(len(look.lines) for look in looks)
        drawn = {end - 1: wish for end, look in zip(ends, looks, strict=True) if (wish := look.observe.sampling)}
    biases: list[tuple[int, int, float]] = []
    if any(observe.bias for observe in kinds):
        biases = [(i, token, nats) for i, observe in enumerate(observes) for token, nats in observe.bias]
    any_unsure = any(observe.entropy for observe in kinds)
    parts: list[dict[str, Tensor]] = []
    draws: list[Draws] = []
    for start, logits in logits_of(pick(hidden, [line for look in looks for line in look.lines]), head, forbidden):
        lines = range(start, start + len(logits))
        if biased := [(i - start, token, nats) for i, token, nats in biases if i in lines]:
            add_bias(logits, *zip(*biased, strict=True))
        values, best = probability.top_tokens(logits, min(max(top_k, 1), logits.shape[-1]))
        unsure = [line - start for line in lines if observes[line].entropy] if any_unsure else []
        everywhere = len(unsure) == len(lines)
        total, entropy = probability.totals(logits, values[:, 0], entropy=everywhere)
        part = {"total": total, "top_ids": best, "top_logprobs": values - total[:, None]}
        if unsure and not everywhere:
            rows = on_device(unsure, device)
            _, entropy = probability.totals(logits[rows], values[rows, 0], entropy=True)
        if entropy is not None:
            part["entropy"] = entropy
        if ids is not None:
            part["asked"] = logits.gather(-1, ids[lines.start : lines.stop]) - total[:, None]
        if drawn and (here := [line for line in lines if line in drawn]):
            settings = np.array(
                [[getattr(drawn[line], name) for line in here] for name in probability.SETTINGS], np.float64
            )
            logprobs = pick(logits - total[:, None], [line - start for line in here])
            draws.append(Draws(sum(len(other.logprobs) for other in draws), logprobs, on_device(settings, device)))
            part |= draws[-1].among(HEAD[device.type])
        parts.append(part)
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: join([part[name] for part in parts if name in part]) for name in names}, draws


def add_bias(logits: Tensor, lines: Sequence[int], tokens: Sequence[int], nats: Sequence[float]) -> None:
    """Add `nats` to the logits (N, V) of `tokens` on `lines`, in place."""
    places = tuple(on_device(indices, logits.device) for indices in (lines, tokens))
    logits.index_put_(places, on_device(nats, logits.device), accumulate=True)


def logits_of(states: Tensor, head: Callable[[Tensor], Tensor], forbidden: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The logits of N states (N, H) in pieces (n, V), each with the number of its first state."""
    rows = len(states) if len(states) <= SURELY_FEW else max(1, MOST_LOGITS // head(states[:1]).shape[-1])
    for start in range(0, len(states), rows):
        logits = head(states[start : start + rows])
        few = len(logits) if logits.is_cuda else max(1, IN_CACHE // logits.shape[-1])
        for place in range(0, len(logits), few):
            yield start + place, probability.permitted(logits[place : place + few], forbidden)


def pick(rows: Tensor, lines: Sequence[int]) -> Tensor:
    """Some rows of (N, ...)."""
    return rows if lines == [*range(len(rows))] else rows[on_device(lines, rows.device)]


def join(parts: list[Tensor]) -> Tensor:
    """Rows one behind the other."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """All tensors on the host, with one synchronisation."""
    moved = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
    for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return {name: tensor.numpy() for name, tensor in moved.items()}


class Cursor:
    """Deals the lines of what was read out to the looks, in their order."""

    def __init__(self, read: Mapping[str, np.ndarray]) -> None:
        self.read, self.dealt = read, dict.fromkeys(read, 0)
        broken = ~np.isfinite(read["total"]) if "total" in read else np.zeros(0, bool)
        self.broken: np.ndarray | None = broken if broken.any() else None

    def take(self, name: str, count: int) -> np.ndarray:
        """The next `count` lines of `name`."""
        start = self.dealt[name]
        self.dealt[name] = start + count
        return self.read[name][start : start + count]

    def observation(self, look: Look) -> Observation | S2TError:
        """The look's own lines and fields."""
        observe, count, seen = look.observe, len(look.lines), Observation()
        failed = False
        if observe.logits:
            start = self.dealt["total"]
            end = self.dealt["total"] = start + count
            failed = self.broken is not None and bool(self.broken[start:end].any())
            if k := observe.top_k:
                seen.top_ids = self.read["top_ids"][start:end, :k]
                seen.top_logprobs = self.read["top_logprobs"][start:end, :k]
            if observe.ids is not None:
                seen.asked_logprobs = self.read["asked"][start:end, : len(look.asked[0])]
            if observe.entropy:
                seen.entropy_nats = self.take("entropy", count)
            if observe.sampling:
                seen.sampled_id = int(self.take("sampled_ids", 1)[0])
                seen.sampled_logprob = float(self.take("sampled_logprobs", 1)[0])
        if observe.bins:
            seen.bin_scores = self.take(f"bins {look.adapter}", count)
            failed |= not np.isfinite(seen.bin_scores).all()
        if observe.hidden:
            seen.hidden = self.take("hidden", count)
        return S2TError(NOT_A_NUMBER) if failed else seen


def joined(parts: Sequence[Observation]) -> Observation:
    """The observation of a request whose positions were seen in several forwards."""
    values = {spec.name: [getattr(part, spec.name) for part in parts] for spec in fields(Observation)}
    whole: dict[str, Any] = {
        name: np.concatenate(found) if isinstance(found[-1], np.ndarray) else found[-1]
        for name, found in values.items()
    }
    return Observation(**whole)
