"""Timing contenders in turn: what one run costs, round by round, and the rows that are printed of it.

Non-goals: what the contenders do (`bench.py`, `plain.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from select_to_think.contexts.protocol import Backend
from select_to_think.runs import Committed, Event, Finished
from select_to_think.structures import Progress


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


Contenders = Mapping[str, Callable[[], Cost]]  # rows of the table by name: how to run each once


def timed_events(
    events: Iterator[tuple[int, Event]],
    backends: Mapping[str, Backend],
    rows: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Cost:
    """Time runs to their end. The prefill ends with the first token of the last row of the first `rows`."""
    forwards = {name: backend.forwards for name, backend in backends.items()}
    begun: set[int] = set()
    results: dict[int, Any] = {}
    start, prefill = clock(), 0.0
    for index, event in events:
        if isinstance(event, Committed) and len(begun) < rows:
            begun.add(index)
            prefill = clock() - start
        if isinstance(event, Finished):
            results[index] = event.result
    seconds = clock() - start
    made = {name: backend.forwards - forwards.get(name, 0) for name, backend in backends.items()}
    outputs = tuple(results[i].tokens for i in sorted(results))
    return Cost(
        seconds,
        sum(map(len, outputs)),
        llm_forwards=sum(result.counts.llm_forwards for result in results.values()),
        prefill_seconds=prefill,
        slm_batch_forwards=made.get("slm", 0),
        llm_batch_forwards=made.get("llm", 0),
        outputs=outputs,
    )


def time_contenders(contenders: Contenders, repeats: int, progress: Progress) -> dict[str, list[Cost]]:
    """Run all contenders in turn, one warm-up round and `repeats` counted ones; the costs of each by name."""
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    turns = [name for _ in range(repeats + 1) for name in contenders]
    for done, name in enumerate(turns, start=1):
        costs[name].append(contenders[name]())
        progress(done, len(turns))
    return {name: counted for name, (_, *counted) in costs.items()}


def table(model: str, batch: int, prompt_tokens: int, timed: dict[str, list[Cost]]) -> list[dict[str, Any]]:
    """Rows as printed: medians over the rounds.

    `ratio_to_greedy` compares seconds per written token within a round, so that a slow minute of the machine changes
    little; `ratio_low` and `ratio_high` are its extremes. `same_text`: whether a method wrote what its plain reference
    wrote; None where that was not compared.
    """
    rows = []
    for name, costs in timed.items():
        seconds, tokens = median(cost.seconds for cost in costs), costs[-1].tokens
        plain = timed[f"{name}-plain"][-1].outputs if f"{name}-plain" in timed else ()
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
                "same_text": costs[-1].outputs == plain if plain else None,
            }
        )
    return rows
