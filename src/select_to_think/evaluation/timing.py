"""Timing contenders in turn: what one run costs, and medians over many.

Non-goals: what the contenders do (`bench.py`, `plain.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Cost:
    """One timed run. `outputs`: what was written, where it is to be compared."""

    seconds: float
    tokens: int
    llm_forwards: int = 0
    outputs: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Contender:
    """One row of the table: how to run it once, and what must hold while it runs (a merged adapter)."""

    name: str
    run: Callable[[], Cost]
    around: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)


def time_contenders(
    contenders: Sequence[Contender], repeats: int, tick: Callable[[], None]
) -> dict[str, tuple[Cost, float]]:
    """Run all contenders in turn, one warm-up round and `repeats` counted ones; (last cost, median seconds) by name."""
    costs: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
    for repeat in range(repeats + 1):
        for contender in contenders:
            with contender.around():
                cost = contender.run()
            if repeat:
                costs[contender.name].append(cost)
            tick()
    return {name: (runs[-1], median(cost.seconds for cost in runs)) for name, runs in costs.items()}
