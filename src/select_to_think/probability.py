"""Pure tensor mathematics of next-token distributions: support, entropy, KL, expected bin, sampling.

Everything works on log-probabilities in nats (natural logarithm), in fp32, on any leading shape.

Non-goals: models, caches, batches. Functions here take tensors and return tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_probabilities(logits: Tensor, forbidden: Tensor | None = None) -> Tensor:
    """Log-softmax in fp32 over the last axis, (..., V) -> (..., V); ids in `forbidden` get probability zero."""
    logprobs: Tensor = torch.log_softmax(permitted(logits, forbidden), -1)
    return logprobs


def permitted(logits: Tensor, forbidden: Tensor | None = None) -> Tensor:
    """(..., V) logits in fp32; those of ids in `forbidden` are minus infinity."""
    logits = logits.float()
    if forbidden is not None and forbidden.numel():
        logits = logits.index_fill(-1, forbidden, -torch.inf)
    return logits


def entropy_nats(logprobs: Tensor) -> Tensor:
    """Shannon entropy -sum p log p of (..., V) log-probabilities -> (...)."""
    terms: Tensor = torch.special.entr(logprobs.exp())
    return terms.sum(-1)


def bucketed_kl_nats(llm_logprobs: Tensor, slm_logprobs: Tensor) -> Tensor:
    """D_KL(p_LLM || p_SLM) over a support plus one bucket for everything else, (..., S) x (..., S) -> (...).

    Both arguments hold the log-probabilities of the same S tokens (the SLM's top-S). Merging the rest into one bucket
    makes this a lower bound of the full divergence (log-sum inequality). Computed in fp64.
    """
    llm, slm = llm_logprobs.double(), slm_logprobs.double()
    p_llm = llm.exp()
    inside = torch.where(p_llm > 0, p_llm * (llm - slm), torch.zeros_like(p_llm)).sum(-1)
    tiny = torch.finfo(torch.float32).eps  # the resolution of the rest: one minus a sum of fp32 probabilities
    rest_llm = (1 - p_llm.sum(-1)).clamp_min(tiny)
    rest_slm = (1 - slm.exp().sum(-1)).clamp_min(tiny)
    return inside + rest_llm * (rest_llm / rest_slm).log()


def renormalised(logprobs: Tensor) -> Tensor:
    """(..., S) log-probabilities of a support as those of a distribution over it alone, in fp64."""
    whole: Tensor = torch.log_softmax(logprobs.double(), -1)
    return whole


def renormalised_kl_nats(slm_logprobs: Tensor, llm_logprobs: Tensor, smallest: float) -> Tensor:
    """D_KL(p_SLM || p_LLM) over a support on which both are renormalised, (..., S) x (..., S) -> (...).

    Tokens to which the LLM gives at most the probability `smallest` are left out of the support.
    """
    known = llm_logprobs.double().exp() > smallest
    slm, llm = (renormalised(of.double().masked_fill(~known, -torch.inf)) for of in (slm_logprobs, llm_logprobs))
    p_slm = slm.exp()
    return torch.where(p_slm > 0, p_slm * (slm - llm), torch.zeros_like(p_slm)).sum(-1)


def expected_bin(hidden: Tensor, bin_rows: Tensor) -> Tensor:
    """Expected bin value of a score distribution, (..., H) x (bins, H) -> (...) in [0, 1].

    softmax(h W^T) . (0, 1/(bins-1), ..., 1): the S2T-Local score (arXiv 2604.26940), in fp32.
    """
    distribution = (hidden.float() @ bin_rows.float().T).softmax(-1)  # (..., bins)
    values = torch.linspace(0, 1, bin_rows.shape[0], device=hidden.device)
    return distribution @ values


HEADS = (64, 1024)  # most probable tokens among which a filtered draw is looked for before all are sorted


def draw(logprobs: Tensor, uniform: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, min_p: Tensor) -> Tensor:
    """Draw one token a row by inverting the distribution function at `uniform`, (B, V) x five (B,) -> (B,).

    Filters as in `transformers`: temperature, then top-k (0 keeps all), then top-p, then min-p; the best token always
    stays. The draw depends on its own row only, so neighbours and batch size cannot change it.
    """
    scaled = torch.log_softmax(logprobs / temperature[:, None], -1)
    settings = torch.stack([uniform, top_p, top_k.to(uniform), min_p], -1)  # (B, 4)
    tokens = torch.empty_like(top_k)
    left = torch.arange(len(scaled), device=scaled.device)  # rows whose token is not drawn yet
    for size in (head for head in HEADS if head < scaled.shape[-1]):
        values, ids = scaled[left].topk(size, -1)
        by_mass = (top_k[left] == 0) & (top_p[left] < 1) & (values.exp().sum(-1) >= top_p[left])
        covered = by_mass | (top_k[left] > 0) & (top_k[left] <= size)  # nothing behind the head is kept
        tokens[left[covered]] = invert(values[covered], ids[covered], *settings[left[covered]].unbind(-1))
        left = left[~covered]
        if not len(left):
            return tokens
    values, ids = torch.sort(scaled[left], dim=-1, descending=True, stable=True)
    tokens[left] = invert(values, ids, *settings[left].unbind(-1))
    return tokens


def invert(values: Tensor, ids: Tensor, uniform: Tensor, top_p: Tensor, top_k: Tensor, min_p: Tensor) -> Tensor:
    """Filter and draw among tokens in order of probability: log-probabilities and ids (B, N) x four (B,) -> (B,)."""
    rank = torch.arange(values.shape[-1], device=values.device)
    keep = (top_k[:, None] == 0) | (rank < top_k[:, None])
    probabilities = values.double().exp().masked_fill(~keep, 0)
    whole = torch.where(top_k > 0, probabilities.sum(-1), 1.0)  # mass of what the top-k filter left
    probabilities = probabilities / whole[:, None]
    keep &= (probabilities.cumsum(-1) - probabilities < top_p[:, None]) | (top_p[:, None] >= 1)
    keep &= probabilities >= min_p[:, None] * probabilities[:, :1]
    keep[:, 0] = True
    cumulative = probabilities.masked_fill(~keep, 0).cumsum(-1)
    position = torch.searchsorted(cumulative, uniform[:, None].double() * cumulative[:, -1:], right=True)
    last = keep.sum(-1, keepdim=True) - 1
    return ids.gather(-1, torch.minimum(position, last)).squeeze(-1)
