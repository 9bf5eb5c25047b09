"""The margin trigger: the SLM's two best tokens are close. Needs no LLM."""

from __future__ import annotations

import numpy as np

from select_to_think.structures import Floats, Observation
from select_to_think.triggers.base import TriggerKind


def margin(slm: Observation, llm: Observation | None) -> Floats:
    """1 - (p1 - p2) of the SLM's two most probable tokens, (P,) in [0, 1]."""
    best = np.exp(slm.top_logprobs[:, :2])
    return np.asarray(1 - (best[:, 0] - best[:, 1]))


MARGIN = TriggerKind("margin", "the SLM's two best tokens are close", margin, support=2)
