"""The training-free verifier: the SLM's own next-token probabilities of the two letters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from select_to_think.models.verifier_prompt import LETTERS
from select_to_think.structures import Floats, Observation, Observe
from select_to_think.verifiers.base import Asking


@dataclass(frozen=True)
class FreeVerifier(Asking):
    """log p_SLM(B | prompt) - log p_SLM(A | prompt).

    With the rule "top", that of MentorCollab-FREE (arXiv 2602.05307), the most probable token of the whole vocabulary
    decides: B, with or without a blank before it, takes the mentor's segment, and anything else the SLM's.
    """

    rule: str = "odds"

    def observe(self, prompts: int) -> Observe:
        """The letters, or the most probable token."""
        return Observe(1) if self.rule == "top" else Observe(ids=(self.prompt.letters,) * prompts)

    def read(self, seen: Observation) -> Floats:
        """Log-odds of the letters; certain, if the most probable token decides."""
        if self.rule == "top":
            said = [self.prompt.text([int(token)]).removeprefix(" ") for token in seen.top_ids[:, 0]]
            return np.array([math.inf if each == LETTERS[1] else -math.inf for each in said], np.float32)
        odds: Floats = seen.asked_logprobs[:, 1] - seen.asked_logprobs[:, 0]
        return odds
