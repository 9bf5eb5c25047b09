"""The entropy trigger: the SLM is unsure. Needs no LLM. And the form of the published code (arXiv 2604.26940)."""

from __future__ import annotations

from select_to_think.structures import Floats, Observation
from select_to_think.triggers.base import TriggerKind
from select_to_think.triggers.kl import SUPPORT


def entropy(slm: Observation, llm: Observation | None) -> Floats:
    """Shannon entropy of the SLM's next-token distribution in nats, (P,)."""
    return slm.entropy_nats


def entropy_paper(slm: Observation, llm: Observation | None) -> Floats:
    """Shannon entropy in nats of the SLM's top-64 tokens, renormalised, (P,)."""
    import torch

    from select_to_think.probability import renormalised_entropy_nats

    return renormalised_entropy_nats(torch.from_numpy(slm.top_logprobs[:, :SUPPORT])).numpy()


ENTROPY = TriggerKind("entropy", "the SLM's distribution is broad", entropy, entropy=True)
ENTROPY_PAPER = TriggerKind("entropy-paper", "entropy as the published code has it", entropy_paper, support=SUPPORT)
