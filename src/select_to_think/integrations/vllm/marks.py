"""What a request tells the processor, and how a paused step tells its statistic.

Non-goals: vLLM; both sides of it read this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

OWN = "s2t"  # our entry of `SamplingParams.extra_args`
LARGEST_STATISTIC = 16.0  # nats: the entropy of nine million tokens


class Wish(NamedTuple):
    """What a request wants: `write`, `score`, or to be paused by the trigger of that name."""

    kind: str
    threshold: float = math.inf
    first: int = 0  # token of the request, before which the trigger does not fire


def wish_of(own: Any) -> Wish:
    """Read our entry.

    Raises:
        ValueError: somebody else wrote it.
    """
    if isinstance(own, list) and 1 <= len(own) <= len(Wish._fields):
        wish = Wish(*own)
        if isinstance(wish.kind, str) and isinstance(wish.threshold, (int, float)) and isinstance(wish.first, int):
            return wish
    raise ValueError(f"{OWN!r} among the extra arguments is what our server writes, not {own!r}")


def lead(statistic: float) -> float:
    """How far the logit of a pause stands above the largest one, in nats: 1 to 2."""
    return 1 + min(max(statistic, 0.0), LARGEST_STATISTIC) / LARGEST_STATISTIC


def unpaused(pause: float, others: Sequence[float]) -> tuple[list[float], float]:
    """The log-probabilities of a paused step as they are without the pause, and the statistic.

    Args:
        pause: log-probability of the pause id.
        others: those of the most probable other tokens, best first.
    """
    rest = math.log(-math.expm1(pause))
    return [value - rest for value in others], LARGEST_STATISTIC * (pause - others[0] - 1)
