"""Timing contenders in turn: what one run costs, round by round, and the rows that are printed of it.

Non-goals: what the contenders do (`bench.py`, `plain.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Cost:
    """One timed run. `outputs`: what was written, where it is to be compared."""

    seconds: float
    tokens: int
    llm_forwards: int = 0  # that rows took part in, summed over rows
    prefill_seconds: float = 0.0  # until every row of the first batch has a token
    slm_batch_forwards: int = 0  # whole-model forwards, however many rows took part
    llm_batch_forwards: int = 0
    outputs: tuple[tuple[int, ...], ...] = ()

    @property
    def seconds_per_token(self) -> float:
        """Seconds of one written token, prefill included."""
        return self.seconds / self.tokens


@dataclass(frozen=True)
class Contender:
    """One row of the table: how to run it once."""

    name: str
    run: Callable[[], Cost]


def time_contenders(contenders: Sequence[Contender], repeats: int, tick: Callable[[], None]) -> dict[str, list[Cost]]:
    """Run all contenders in turn, one warm-up round and `repeats` counted ones; the costs of each by name."""
    costs: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
    for repeat in range(repeats + 1):
        for contender in contenders:
            cost = contender.run()
            if repeat:
                costs[contender.name].append(cost)
            tick()
    return costs


def table(model: str, batch: int, prompt_tokens: int, timed: dict[str, list[Cost]]) -> list[dict[str, Any]]:
    """Rows as printed: medians over the rounds.

    `ratio_to_greedy` compares seconds per written token within a round, so that a slow minute of the machine changes
    little; `ratio_low` and `ratio_high` are its extremes.
    """
    rows = []
    for name, costs in timed.items():
        seconds, tokens = median(cost.seconds for cost in costs), costs[-1].tokens
        ratios = [
            cost.seconds_per_token / base.seconds_per_token for cost, base in zip(costs, timed["greedy"], strict=True)
        ]
        rows.append(
            {
                "name": name,
                "model": model,
                "batch": batch,
                "prompt": prompt_tokens,
                "new_tokens": tokens,
                "seconds": seconds,
                "prefill_seconds": median(cost.prefill_seconds for cost in costs),
                "tokens_per_second": tokens / seconds,
                "ratio_to_greedy": median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "llm_forwards_per_token": costs[-1].llm_forwards / tokens,
                "slm_batch_forwards": costs[-1].slm_batch_forwards,
                "llm_batch_forwards": costs[-1].llm_batch_forwards,
                "same_text": same_text(name, timed),
            }
        )
    return rows


def same_text(name: str, timed: dict[str, list[Cost]]) -> bool | None:
    """Whether a method wrote what its plain reference wrote; None where that was not compared."""
    plain = timed.get(f"{name}-plain")
    if plain is None or not plain[-1].outputs:
        return None
    return timed[name][-1].outputs == plain[-1].outputs
