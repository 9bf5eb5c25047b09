"""The losses of the scorer, as pure functions of tensors (arXiv 2604.26940, section on training the local scorer).

`language_kl` is the loss of distillation too.

Shapes: G groups, K candidates a group. Everything is in nats and summed over groups or tokens; the caller divides, so
that gradient accumulation and several devices give the same gradient as one large batch.

Non-goals: models.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
