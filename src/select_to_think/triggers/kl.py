"""The KL trigger of Select to Think (arXiv 2604.26940; in its code the divergence is the other way round): where do
the two models disagree?"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

import torch

from select_to_think.probability import bucketed_kl_nats
from select_to_think.triggers.base import StepView, Trigger

SUPPORT = 64  # tokens of the SLM that are compared one by one; the rest is one bucket


@dataclass(frozen=True)
class KLTrigger(Trigger):
    """D_KL(p_LLM || p_SLM) in nats over the SLM's top-64 tokens plus one bucket for all the rest.

    A lower bound of the full divergence. It needs the LLM's distribution at every step; `policies/block_verified.py`
    gets it with about one LLM forward per block of steps.
    """

    needs_llm: ClassVar[bool] = True
    top: int = SUPPORT

    @property
    def support(self) -> int:
        """The SLM tokens that are compared one by one."""
        return self.top

    def statistic(self, view: StepView, random: Random) -> float:
        """The divergence of this step in nats."""
        assert view.llm is not None and view.llm.asked_logprobs is not None and view.slm.top_logprobs is not None
        llm = torch.from_numpy(view.llm.asked_logprobs[view.line])  # (S,)
        slm = torch.from_numpy(view.slm.top_logprobs[0, : self.support])  # (S,)
        return float(bucketed_kl_nats(llm, slm))
