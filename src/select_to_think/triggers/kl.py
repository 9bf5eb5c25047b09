"""The exact KL trigger of Select to Think (arXiv 2604.26940): where do the two models disagree?"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

import torch

from select_to_think.config import CALIBRATION_SUPPORT
from select_to_think.probability import bucketed_kl_nats
from select_to_think.triggers.base import StepView


@dataclass(frozen=True)
class KLTrigger:
    """D_KL(p_LLM || p_SLM) in nats over the SLM's top-64 tokens plus one bucket for all the rest.

    A lower bound of the full divergence. It needs the LLM's distribution at every step; `policies/block_verified.py`
    gets it with about one LLM forward per block of steps.
    """

    threshold: float
    name: ClassVar[str] = "kl"
    needs_llm: ClassVar[bool] = True
    support: int = CALIBRATION_SUPPORT
    entropy: ClassVar[bool] = False
    hidden: ClassVar[bool] = False

    def statistic(self, view: StepView, random: Random) -> float:
        """The divergence of this step in nats."""
        assert view.llm is not None and view.llm.asked_logprobs is not None and view.slm.top_logprobs is not None
        llm = torch.from_numpy(view.llm.asked_logprobs[view.line])  # (S,)
        slm = torch.from_numpy(view.slm.top_logprobs[0, : self.support])  # (S,)
        return float(bucketed_kl_nats(llm, slm))
