"""The losses of the scorer, as pure functions of tensors (arXiv 2604.26940, section on training the local scorer).

`language_kl` is the loss of distillation too.

Shapes: G groups, K candidates a group. Everything is in nats and summed over groups or tokens; the caller divides, so
that gradient accumulation and several devices give the same gradient as one large batch.

What is a function of next-token logits is computed some tokens at a time (`by_rows`, `in_rows`), so that logits of a
whole batch, (B, T, V), never exist.

Non-goals: models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from select_to_think.config import ScoreKind
from select_to_think.probability import log_probabilities


def choice_logits(
    kind: ScoreKind, expected: Tensor, slm_logprobs: Tensor, temperature: float, anchor: Tensor | float
) -> Tensor:
    """Logits of "which candidate does the LLM prefer", (G, K) from expected bins and log p_SLM, both (G, K).

    bins (the paper): E(c) / T. anchored, adapted: E(c) / T + a log p_SLM(c), so that equal bins mean the SLM's own
    choice; for adapted, log p_SLM is that of the SLM with the adapter on.

    E lies in [0, 1]. At T = 1 the best possible softmax over 16 candidates gives the right one e / (e + 15) = 0.153, a
    cross-entropy of 1.875 nats: nothing can be fitted. T belongs near 0.1.
    """
    scaled = expected / temperature
    return scaled if kind == "bins" else scaled + anchor * slm_logprobs


def choice_loss(logits: Tensor, llm_logprobs: Tensor) -> Tensor:
    """Cross-entropy against the LLM's best candidate, (G, K) x (G, K) -> (), summed over groups.

    Naive form: -sum_g log softmax(logits[g])[argmax_c llm_logprobs[g, c]].
    """
    return torch.nn.functional.cross_entropy(logits, llm_logprobs.argmax(-1), reduction="sum")


def group_kl(logits: Tensor, llm_logprobs: Tensor) -> Tensor:
    """D_KL(p_LLM || softmax(logits)) with p_LLM renormalised over the candidates, (G, K) x (G, K) -> (), summed.

    Naive form: sum_g sum_c p log(p / q), p = softmax(llm_logprobs[g]), q = softmax(logits[g]).
    """
    return torch.nn.functional.kl_div(
        logits.log_softmax(-1), llm_logprobs.log_softmax(-1), reduction="sum", log_target=True
    )


def language_kl(logits: Tensor, base_logits: Tensor, forbidden: Tensor) -> Tensor:
    """D_KL(p_base || p_adapted) of the next token over the ordinary vocabulary, (..., V) x (..., V) -> (...).

    The regulariser of the coupled mode, whose base is the frozen SLM: the adapted model must go on writing as it does.
    The loss of `kd`, whose base is the LLM. `forbidden` ids (reserved rows, padding rows of the head) are left out of
    both distributions.

    Naive form: sum_v p_base(v) log(p_base(v) / p_adapted(v)) with both softmaxes over the ordinary ids only.
    """
    base = log_probabilities(base_logits, forbidden)
    difference = base - log_probabilities(logits, forbidden)
    if forbidden.numel():
        difference = difference.index_fill(-1, forbidden, 0.0)  # -inf minus -inf
    return (base.exp() * difference).sum(-1)


LOGITS_AT_ONCE = 1 << 24  # elements of a tensor of logits: 64 MiB in fp32, 110 tokens of a vocabulary of 152 000

RowLoss = Callable[..., tuple[Tensor, Tensor]]


def slices(tensors: tuple[Tensor, ...], vocabulary: int) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of (N, ...) tensors, as many at a time as may have logits; one empty slice if there are none."""
    rows = max(1, LOGITS_AT_ONCE // vocabulary)
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def by_rows(function: RowLoss, vocabulary: int, states: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """The losses (N,) of final hidden states (N, H), and what is known of each row besides, (N,) without gradient.

    `function` takes some of the rows of all arguments. The gradient of a slice is taken while its logits are there, so
    nothing of the size of the vocabulary is kept, and nothing is computed twice (the idea of Liger's fused losses). It
    reaches `states` only; all else that `function` uses must be frozen.

    Naive form: function(states, *others).
    """
    apply: Any = _ByRows.apply
    losses, known = apply(function, vocabulary, torch.is_grad_enabled(), states, *others)
    return losses, known


class _ByRows(torch.autograd.Function):
    """See `by_rows`."""

    @staticmethod
    def forward(
        ctx: Any, function: RowLoss, vocabulary: int, trained: bool, states: Tensor, *others: Tensor
    ) -> tuple[Tensor, Tensor]:
        losses, known = [], []
        gradients: list[Tensor] = []
        for rows, *more in slices((states, *others), vocabulary):
            with torch.set_grad_enabled(trained):
                leaf = rows.detach().requires_grad_(trained)
                loss, extra = function(leaf, *more)
                if trained:
                    gradients += torch.autograd.grad(loss.sum(), leaf)
            losses.append(loss.detach())
            known.append(extra.detach())
        ctx.others = len(others)
        ctx.save_for_backward(*([torch.cat(gradients)] if trained else []))
        both = torch.cat(losses), torch.cat(known)
        ctx.mark_non_differentiable(both[1])
        return both

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (states,) = ctx.saved_tensors
        return None, None, None, (states * gradients[0][:, None]).to(states.dtype), *[None] * ctx.others


def in_rows(function: Callable[..., Tensor], vocabulary: int, *tensors: Tensor) -> Tensor:
    """`function` of (N, ...) tensors, some rows at a time; in the backward pass each slice is computed again.

    Naive form: function(*tensors).
    """
    parts = slices(tensors, vocabulary)
    return torch.cat([checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])
