"""The trained verifier: a small network on the SLM's last hidden state at the end of the prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from select_to_think.structures import Floats, Observation, Observe
from select_to_think.verifiers.base import Asking


@dataclass(frozen=True)
class MLPVerifier(Asking):
    """The network's logit for "option B leads to the right answer", after MentorCollab-MLP (arXiv 2602.05307), whose
    network reads another state (docs/methods.md, "What differs from the published code").

    `head` takes hidden states (last layer after the final norm), (P, H) -> (P,).
    """

    head: Callable[[Floats], Floats]

    def observe(self, prompts: int) -> Observe:
        """The hidden state."""
        return Observe(hidden=True)

    def read(self, seen: Observation) -> Floats:
        """The network's logits."""
        return self.head(seen.hidden)
