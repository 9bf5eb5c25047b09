"""The KL trigger of Select to Think (arXiv 2604.26940; in its code the divergence is the other way round): where do
the two models disagree?"""

from __future__ import annotations

from select_to_think.structures import Floats, Observation
from select_to_think.triggers.base import TriggerKind

SUPPORT = 64  # tokens of the SLM that are compared one by one; the rest is one bucket


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


KL = TriggerKind("kl", "the two models' distributions differ", kl, support=SUPPORT, needs_llm=True)
