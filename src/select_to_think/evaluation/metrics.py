"""From per-item records to one row per method and domain, and from the rows of a run to their comparison.

Non-goals: the statistics themselves (`statistics.py`), reading and writing files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from select_to_think.config import PriceConfig
from select_to_think.evaluation.items import with_all
from select_to_think.evaluation.results import PROMPT_TOO_LONG, ItemRecord, ResultRow
from select_to_think.evaluation.statistics import money, over_seeds, paired_difference
from select_to_think.methods import find_method
from select_to_think.structures import Counts, S2TError

HIT_K = 8
MENTOR_COUNTS = ("consultations", "disagreements", "mentor_choices", "mentor_tokens_rejected")


@dataclass(frozen=True)
class Outcomes:
    """Whether each of n items was answered right: the part of a method's records that comparing needs."""

    ids: tuple[str, ...]
    domains: tuple[str, ...]  # (n,)
    right: NDArray[np.bool_]  # (seeds, n)

    def of(self, domain: str) -> NDArray[np.bool_]:
        """(seeds, items of the domain); "all" is every item."""
        return self.right if domain == "all" else self.right[:, np.array(self.domains) == domain]


def outcomes(runs: Sequence[Sequence[ItemRecord]]) -> Outcomes:
    """What runs of one method that differ by seed came to. Raises S2TError if they are not about the same items."""
    ids = tuple(record.id for record in runs[0])
    if any(tuple(record.id for record in run) != ids for run in runs):
        raise S2TError("runs that differ by seed must have the same items in the same order")
    right = np.array([[record.right for record in run] for run in runs])
    return Outcomes(ids, tuple(record.domain for record in runs[0]), right)


def summarise(
    method: str, runs: Sequence[Sequence[ItemRecord]], prices: PriceConfig = PriceConfig()
) -> list[ResultRow]:
    """One row per domain in order of appearance, then "all". `runs`: the records of one method, once for each seed."""
    found, asked, rows = outcomes(runs), find_method(method), []
    for domain in with_all(found.domains):
        right, cost = found.of(domain), Counts()
        records = [record for run in runs for record in run if domain in ("all", record.domain)]
        tokens, fired = (sum(getattr(record, name) for record in records) for name in ("tokens", "fired"))
        seconds = math.fsum(record.seconds for record in records)
        triggered = fired if asked.trigger is not None else 0
        for record in records:
            cost.add(record.counts)
        row = ResultRow(
            method=method,
            domain=domain,
            n=right.size,
            accuracy=float(right.mean()),
            stderr=over_seeds(list(right))[1],
            tokens=tokens,
            seconds=seconds,
            tokens_per_second=tokens / seconds if seconds > 0 else None,
            trigger_rate=fired / tokens if asked.trigger is not None and tokens else None,
            flip_rate=sum(record.flips for record in records) / triggered if triggered else None,
            hit_at_8=hit_rate(records),
            llm_tokens_generated=cost.llm_tokens_generated,
            llm_tokens_processed=cost.llm_tokens_processed,
            llm_forwards=cost.llm_forwards,
            truncated=sum(record.finish_reason == "length" for record in records),
            prompts_too_long=sum(record.finish_reason == PROMPT_TOO_LONG for record in records),
            slm_tokens_processed=cost.slm_tokens_processed,
            llm_tokens_share=sum(map(llm_tokens, records)) / tokens if tokens else None,
            flops=known_sum(record.flops for record in records),
            money=money(cost, prices),
            seeds=len(right),
            llm_failures=cost.llm_failures if asked.asks_llm else None,
            **({name: getattr(cost, name) for name in MENTOR_COUNTS} if asked.mentor else {}),
        )
        rows.append(row)
    return rows


def llm_tokens(record: ItemRecord) -> int:
    """Tokens of an answer that the LLM wrote, or chose at a triggered step (what it did by both counts once)."""
    chosen = [step["chooser"] for step in record.steps].count("llm")
    return max(chosen, record.counts.llm_tokens_generated)


def known_sum(values: Iterable[float | None]) -> float | None:
    """The sum; None if one of them is not known."""
    known = list(values)
    return None if None in known else math.fsum(value for value in known if value is not None)


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


def compared(rows: Iterable[ResultRow], found: Mapping[str, Outcomes], baseline: str) -> list[ResultRow]:
    """The rows, each with its paired difference from the row of the `baseline` method in the same domain.

    Several seeds enter as the mean of each item over them. Rows stay as they are where the baseline has no answers.
    """
    done = []
    for row in rows:
        if row.method != baseline and baseline in found:
            ours, theirs = (found[method].of(row.domain).mean(axis=0) for method in (row.method, baseline))
            row = replace(row, baseline=baseline, paired=paired_difference(ours, theirs))
        done.append(row)
    return done
