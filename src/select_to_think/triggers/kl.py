"""The KL trigger of Select to Think (arXiv 2604.26940): where do the two models disagree? And the form of its code, in
which the divergence is the other way round."""

from __future__ import annotations

from select_to_think.structures import Floats, Observation
from select_to_think.triggers.base import TriggerKind

SUPPORT = 64  # tokens of the SLM that are compared one by one; the rest is one bucket
SMALLEST = 1e-12  # probability under the LLM above which the published code compares a token


def kl(slm: Observation, llm: Observation | None) -> Floats:
    """D_KL(p_LLM || p_SLM) in nats over the SLM's top-64 tokens plus one bucket for all the rest, (P,).

    A lower bound of the full divergence. It needs the LLM's distribution at every step; `policies/block_verified.py`
    gets it with about one LLM forward per block of steps.
    """
    import torch

    from select_to_think.probability import bucketed_kl_nats

    assert llm is not None
    theirs, ours = (torch.from_numpy(of[:, :SUPPORT]) for of in (llm.asked_logprobs, slm.top_logprobs))
    return bucketed_kl_nats(theirs, ours).numpy()


def kl_paper(slm: Observation, llm: Observation | None) -> Floats:
    """D_KL(p_SLM || p_LLM) in nats over the SLM's top-64 tokens, on which both are renormalised, (P,)."""
    import torch

    from select_to_think.probability import renormalised_kl_nats

    assert llm is not None
    ours, theirs = (torch.from_numpy(of[:, :SUPPORT]) for of in (slm.top_logprobs, llm.asked_logprobs))
    return renormalised_kl_nats(ours, theirs, SMALLEST).numpy()


KL = TriggerKind("kl", "the two models' distributions differ", kl, support=SUPPORT, needs_llm=True)
KL_PAPER = TriggerKind("kl-paper", "kl as the published code has it", kl_paper, support=SUPPORT, needs_llm=True)
