"""The entropy trigger: the SLM is unsure. Needs no LLM."""

from __future__ import annotations

from select_to_think.structures import Floats, Observation
from select_to_think.triggers.base import TriggerKind


def entropy(slm: Observation, llm: Observation | None) -> Floats:
    """Shannon entropy of the SLM's next-token distribution in nats, (P,)."""
    return slm.entropy_nats


ENTROPY = TriggerKind("entropy", "the SLM's distribution is broad", entropy, entropy=True)
