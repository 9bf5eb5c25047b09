"""From per-item records to one row per method and domain.

Non-goals: comparing methods (`statistics.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from select_to_think.evaluation.items import with_all
from select_to_think.evaluation.results import ItemRecord, ResultRow
from select_to_think.structures import Counts

HIT_K = 8


def summarise(method: str, records: Sequence[ItemRecord], *, triggered: bool) -> list[ResultRow]:
    """One row per domain in order of appearance, then "all". `triggered`: the method asks a trigger at its steps."""
    return [
        _row(method, domain, [r for r in records if domain in ("all", r.domain)], triggered=triggered)
        for domain in with_all(record.domain for record in records)
    ]


def _row(method: str, domain: str, records: Sequence[ItemRecord], *, triggered: bool) -> ResultRow:
    n = len(records)
    right = sum(record.right for record in records)
    tokens = sum(record.tokens for record in records)
    seconds = math.fsum(record.seconds for record in records)
    fired = sum(record.fired for record in records)
    cost = Counts()
    for record in records:
        cost.add(record.counts)
    return ResultRow(
        method=method,
        domain=domain,
        n=n,
        accuracy=right / n,
        stderr=accuracy_stderr(right, n),
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds > 0 else None,
        trigger_rate=fired / tokens if triggered and tokens else None,
        flip_rate=sum(record.flips for record in records) / fired if triggered and fired else None,
        hit_at_8=hit_rate(records),
        llm_tokens_generated=cost.llm_tokens_generated,
        llm_tokens_processed=cost.llm_tokens_processed,
        llm_forwards=cost.llm_forwards,
    )


def accuracy_stderr(right: int, n: int) -> float | None:
    """Standard error of the mean of n right/wrong marks, sqrt(p (1 - p) / (n - 1)); None for n < 2."""
    return math.sqrt(right * (n - right) / (n - 1)) / n if n > 1 else None


def hit_rate(records: Sequence[ItemRecord]) -> float | None:
    """Share of the triggered steps whose LLM top-1 is among the SLM's top 8.

    None if there is no triggered step, or if one of them does not tell: the LLM was not asked, or fewer than 8
    candidates were looked at and its token is none of them.
    """
    hits = total = 0
    for step in (step for record in records for step in record.steps):
        top = [candidate["id"] for candidate in step["candidates"][:HIT_K]]
        if step["llm_top"] is None or (len(top) < HIT_K and step["llm_top"] not in top):
            return None
        hits += step["llm_top"] in top
        total += 1
    return hits / total if total else None
