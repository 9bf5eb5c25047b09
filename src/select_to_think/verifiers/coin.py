"""A coin toss between the segments: the control that a verifier must beat."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from random import Random
from typing import Any, Self

from select_to_think.structures import Requests
from select_to_think.verifiers.base import Dispute, Follower


@dataclass(frozen=True)
class CoinVerifier:
    """Heads for the mentor, from the row's own random stream."""

    def about(self, question: str) -> Self:
        """Questions make no difference to a coin."""
        return self

    def room(self, segment_tokens: int) -> int:
        """It reads nothing."""
        return 0

    def margin(self, dispute: Dispute, context: Follower, random: Random) -> Generator[Requests, Any, float]:
        """Certain, and arbitrary."""
        yield from ()
        return math.inf if random.random() < 0.5 else -math.inf
