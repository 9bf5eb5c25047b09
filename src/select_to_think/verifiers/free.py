"""The training-free verifier: the SLM's own next-token probabilities of the two letters."""

from __future__ import annotations

from dataclasses import dataclass

from select_to_think.structures import Floats, Observation, Observe
from select_to_think.verifiers.base import Asking


@dataclass(frozen=True)
class FreeVerifier(Asking):
    """log p_SLM(B | prompt) - log p_SLM(A | prompt).

    After MentorCollab-FREE (arXiv 2602.05307), where the most probable token of the whole vocabulary decides.
    """

    def observe(self, prompts: int) -> Observe:
        """The letters."""
        return Observe(ids=(self.prompt.letters,) * prompts)

    def read(self, seen: Observation) -> Floats:
        """Log-odds of the letters."""
        odds: Floats = seen.asked_logprobs[:, 1] - seen.asked_logprobs[:, 0]
        return odds
