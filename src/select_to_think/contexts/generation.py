"""Decoding that an engine does by itself: many steps for one request, as far as the next divergence point.

Non-goals: engines (`integrations/vllm/`), and what happens at a divergence point (`policies/ahead.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from select_to_think.structures import Extend, Observation


@dataclass(slots=True)
class Generate(Extend):
    """Append `tokens`, and go on with the most probable token; `observe` is what every step shows.

    Without `tokens`, what is under way is asked for its next steps.
    """

    max_new_tokens: int = 1
    stop_ids: frozenset[int] = frozenset()
    trigger: str | None = None  # pause where it fires; these hold where decoding begins
    threshold: float = 0.0
    first: int = 0  # step from which it may fire


@dataclass(frozen=True, slots=True)
class Piece:
    """The next P steps, at least one. If `paused`, the trigger fired at the last one, where nothing is written."""

    tokens: tuple[int, ...]  # (P,), or (P - 1,) if paused
    seen: Observation  # (P, top_k)
    paused: bool = False
    statistic: float | None = None  # of the trigger, where it fired
