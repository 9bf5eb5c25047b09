"""The plainest possible definitions: whole prefix every time, no cache, one sequence, one token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def next_logprobs(model: torch.nn.Module, tokens: Sequence[int], forbidden: Sequence[int] = ()) -> Tensor:
    """Log-probabilities of the next token after `tokens`, (V,)."""
    with torch.no_grad():
        logits = model(torch.tensor([list(tokens)])).logits[0, -1].float()
    logits[list(forbidden)] = -torch.inf
    return logits.log_softmax(-1)


def greedy(model: torch.nn.Module, prompt: Sequence[int], new: int, stop: set[int]) -> list[int]:
    """Greedy decoding."""
    out: list[int] = []
    while len(out) < new and not (out and out[-1] in stop):
        out.append(int(next_logprobs(model, [*prompt, *out]).argmax()))
    return out


def bucketed_kl(llm: Tensor, slm: Tensor, support: int) -> float:
    """The KL trigger's statistic, written with Python floats."""
    ids = slm.topk(support).indices.tolist()
    inside = [(math.exp(llm[i]), math.exp(slm[i])) for i in ids]
    rest = (max(1 - sum(p for p, _ in inside), 1e-7), max(1 - sum(q for _, q in inside), 1e-7))
    return sum(p * math.log(p / q) for p, q in [*inside, rest] if p > 0)


def select_to_think(
    slm: torch.nn.Module,
    llm: torch.nn.Module,
    prompt: Sequence[int],
    new: int,
    stop: set[int],
    threshold: float,
    k: int,
    support: int,
    takeover: bool = False,
) -> list[int]:
    """S2T with the KL trigger: both models over the whole prefix at every token."""
    out: list[int] = []
    while len(out) < new and not (out and out[-1] in stop):
        p_slm, p_llm = (next_logprobs(m, [*prompt, *out]) for m in (slm, llm))
        token = int(p_slm.argmax())
        if bucketed_kl(p_llm, p_slm, support) > threshold:
            candidates = p_slm.topk(k).indices.tolist()
            token = int(p_llm.argmax()) if takeover else max(candidates, key=lambda c: float(p_llm[c]))
        out.append(token)
    return out
