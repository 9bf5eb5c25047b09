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


LOWEST = -200.0  # nats below the largest logit at which a probability in fp32 surely is zero


def totals(logits: Tensor, largest: Tensor, *, entropy: bool) -> tuple[Tensor, Tensor | None]:
    """Log of the summed exponentials of (..., V) logits; if wanted, also the entropy -sum p log p in nats, (...) each.

    `largest` (...) are the largest logits.
    """
    p = torch.softmax(logits, -1)
    log_sum = -p.amax(-1).log()  # of exp(logit - largest)
    if not entropy:
        return largest + log_sum, None
    below = (logits - largest[..., None]).clamp_min_(LOWEST)
    return largest + log_sum, log_sum - p.mul_(below).sum(-1)


LARGE = 1 << 14  # a vocabulary in which it pays to look for the top tokens by blocks


def top_tokens(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top-k of fp32 (N, V), best first, the lowest id first among equals -> values (N, k), ids (N, k).

    In a large vocabulary only k blocks are looked into: those of the largest maxima, which hold all of the top-k.
    """
    vocabulary = values.shape[-1]
    if k == vocabulary:
        return torch.sort(values, dim=-1, descending=True, stable=True)
    size = 1 << (vocabulary // k).bit_length() // 2  # about sqrt(V / k)
    whole = vocabulary // size * size
    if vocabulary < LARGE or 2 * k * size > whole:
        ids = top_places(values, k)
        return values.gather(-1, ids), ids
    blocks = top_places(values[:, :whole].view(len(values), -1, size).amax(-1), k).sort(-1).values  # (N, k)
    inside, rest = (torch.arange(*span, device=values.device) for span in ((size,), (whole, vocabulary)))
    ids = torch.cat([(blocks[..., None] * size + inside).flatten(1), rest.expand(len(values), -1)], -1)
    found = values.gather(-1, ids)
    places = top_places(found, k)
    return found.gather(-1, places), ids.gather(-1, places)


def on_host(values: Tensor) -> bool:
    """Whether it costs nothing to look at single numbers."""
    return values.is_cpu


def top_places(values: Tensor, k: int) -> Tensor:
    """Where the top-k of fp32 (N, M) stand, best first, the first place first among equals -> (N, k)."""
    if k == 1:
        if not on_host(values):
            return values.argmax(-1, keepdim=True)
        return torch.from_numpy(values.numpy().argmax(-1))[:, None]  # ten times as fast
    if on_host(values) and k < values.shape[-1]:
        top = values.topk(k + 1, -1)
        if (top.values[:, 1:] < top.values[:, :-1]).all():  # no equals, which it gives in any order
            return top.indices[:, :k]
    bits = (values + 0.0).view(torch.int32)  # no negative zero
    ordered = bits ^ ((bits >> 31) & torch.iinfo(torch.int32).max)  # integers in the order of the numbers
    places = torch.arange(values.shape[-1], device=values.device)
    return ((ordered.long() << 32) - places).topk(k, -1).indices


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


def renormalised_entropy_nats(logprobs: Tensor) -> Tensor:
    """Shannon entropy of a distribution over a support alone, (..., S) -> (...)."""
    terms: Tensor = torch.special.entr(renormalised(logprobs).exp())
    return terms.sum(-1)


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


SETTINGS = ("uniform", "temperature", "top_p", "top_k", "min_p")  # of a draw


def draw(logprobs: Tensor, settings: Tensor, head: int) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the distribution function at `uniform`, (B, V) x `SETTINGS` (5, B) -> (B,).

    Filters as in `transformers`: temperature, then top-k (0 keeps all), then top-p, then min-p; the best token always
    stays. The draw depends on its own row only, so neighbours and batch size cannot change it. It is looked for among
    the `head` most probable tokens; the second result (B,) says where nothing behind them could have been drawn.
    """
    uniform, temperature, top_p, top_k, min_p = settings
    size = min(head, logprobs.shape[-1])
    scaled = torch.log_softmax(logprobs / temperature[:, None].to(logprobs), -1)
    values, ids = top_tokens(scaled, size)
    keep = (top_k[:, None] == 0) | (torch.arange(size, device=values.device) < top_k[:, None])
    p = values.double().exp().masked_fill(~keep, 0)
    p = p / torch.where(top_k > 0, p.sum(-1), 1.0)[:, None]  # the mass of what the top-k filter left
    keep &= (p.cumsum(-1) - p < top_p[:, None]) | (top_p[:, None] >= 1)
    keep &= p >= min_p[:, None] * p[:, :1]
    keep[:, 0] = True
    cumulative = p.masked_fill(~keep, 0).cumsum(-1)
    filtered = (top_k > 0) | (top_p < 1) | (min_p > 0)
    target = uniform * torch.where(filtered, cumulative[:, -1], 1.0)
    place = torch.searchsorted(cumulative, target[:, None], right=True)
    last = keep.sum(-1, keepdim=True) - 1
    tokens = ids.gather(-1, torch.minimum(place, last)).squeeze(-1)
    inside = torch.where(filtered, ~keep[:, -1], cumulative[:, -1] > target)
    found = torch.where(top_k > 0, top_k <= size, inside) | (size == logprobs.shape[-1])
    return tokens, found
