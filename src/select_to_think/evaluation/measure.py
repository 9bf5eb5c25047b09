"""Local sufficiency: how often is the LLM's choice already among the SLM's top-k, where the two disagree most?

The steps of greedy rollouts are ranked by the KL trigger's statistic and the top share of them is looked at
(arXiv 2604.26940, section 3). The share is taken of the steps measured, so no calibration is needed and none is made.

Non-goals: accuracy (`runner.py`) and thresholds for decoding (`calibrate.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from select_to_think.config import DecodeConfig, SelectConfig
from select_to_think.evaluation.fitting import only_fitting
from select_to_think.evaluation.items import Item, assert_unique, with_all
from select_to_think.evaluation.results import KS, Results, SufficiencyRow, provenance
from select_to_think.evaluation.rollouts import labelled_greedy
from select_to_think.evaluation.settings import fingerprints
from select_to_think.evaluation.workers import Workers, require_same_models, workers_of
from select_to_think.policies.label import Labels
from select_to_think.structures import Progress, S2TError
from select_to_think.triggers.table import find_trigger

if TYPE_CHECKING:
    from select_to_think.session import Session

DEFINED = ("trigger_definition", "warm_up_steps")


@dataclass(frozen=True)
class RankedSteps:
    """All P steps of one item."""

    id: str
    kl_nats: NDArray[np.float32]  # (P,)
    rank: NDArray[np.int64]  # (P,) place of the LLM's top-1 among the SLM's top tokens; their number if it is none
    flip: NDArray[np.bool_]  # (P,)


def measure(
    holder: Session | Workers,
    items: Sequence[Item],
    *,
    select: SelectConfig,
    decode: DecodeConfig = DecodeConfig(),
    progress: Progress | None = None,
) -> Results[SufficiencyRow]:
    """Hit@k at the share of steps with the highest KL that is the trigger budget of `select`, per domain and for all.

    Items whose prompts do not fit the context are left out, and the notes say how many. Raises S2TError for no or
    doubled items and a budget that is not above 0.
    """
    assert_unique(items)
    if not select.trigger_budget:
        raise S2TError("trigger_budget must be above 0 and at most 1 to measure something, got 0")
    workers = workers_of(holder)
    items, remarks = only_fitting(workers, items, decode.max_new_tokens, with_llm=True)
    work = partial(_measured, select=select, decode=decode, models=workers.ask(fingerprints))
    steps: dict[str, RankedSteps] = {}
    for measured in workers.spread(work, items):
        steps[measured.id] = measured
        if progress:
            progress(len(steps), len(items))
    rows, threshold = sufficiency(items, [steps[item.id] for item in items], select.trigger_budget)
    about = partial(described, rows=rows, kl_nats_threshold=threshold, select=select, decode=decode, remarks=remarks)
    return workers.ask(about)


def _measured(
    session: Session, items: Sequence[Item], *, select: SelectConfig, decode: DecodeConfig, models: dict[str, str]
) -> Iterator[RankedSteps]:
    """The steps of every item, with the models of these fingerprints."""
    require_same_models(models, fingerprints(session))
    for index, labels in labelled_greedy(session, items, decode, with_llm=True):
        yield ranked_steps(items[index].id, labels, select)


def described(
    session: Session,
    rows: Sequence[SufficiencyRow],
    kl_nats_threshold: float,
    select: SelectConfig,
    decode: DecodeConfig,
    remarks: Sequence[str],
) -> Results[SufficiencyRow]:
    """The rows with their provenance."""
    config = {
        "measure": {
            **{name: getattr(select, name) for name in ("trigger_budget", "candidates", *DEFINED)},
            "kl_nats_threshold": kl_nats_threshold,
        },
        "decode": asdict(decode),
    }
    about = provenance(session, config, seeds=[decode.seed])
    about["notes"] += remarks
    return Results(tuple(rows), about)


def sufficiency(
    items: Sequence[Item], steps: Sequence[RankedSteps], trigger_budget: float
) -> tuple[list[SufficiencyRow], float]:
    """The rows over the share `trigger_budget` of all steps with the highest KL, and the smallest KL among them, nats.

    `steps`: of each item.

    Raises:
        S2TError: no item has a step behind the warm-up.
    """
    if not any(len(entry.kl_nats) for entry in steps):
        raise S2TError("no answer is longer than the warm-up: lower --warm-up-steps, or raise --max-new-tokens")
    fired, threshold = top_share([entry.kl_nats for entry in steps], trigger_budget)
    rows = []
    for domain in with_all(item.domain for item in items):
        chosen = [i for i, item in enumerate(items) if domain in ("all", item.domain)]
        rows.append(_row(domain, [steps[i] for i in chosen], [fired[i] for i in chosen]))
    return rows, threshold


def ranked_steps(item_id: str, labels: Labels, select: SelectConfig) -> RankedSteps:
    """The steps of one item behind the warm-up."""
    assert labels.llm_top_ids is not None and labels.llm_logprobs is not None
    same = labels.slm_ids == labels.llm_top_ids[:, :1]  # (P, S)
    rank = np.where(same.any(axis=1), same.argmax(axis=1), same.shape[1])
    flip = labels.llm_logprobs[:, : select.candidates].argmax(axis=1) != 0
    kl = labels.statistics[find_trigger("kl", select.trigger_definition).name]
    behind = slice(select.warm_up_steps, None)
    return RankedSteps(item_id, kl[behind], rank[behind], flip[behind])


def top_share(statistics: Sequence[NDArray[np.float32]], share: float) -> tuple[list[NDArray[np.bool_]], float]:
    """Mark the `share` (0-1) of all entries with the highest values, at least one; equal values in order.

    Returns the marks, shaped as `statistics`, and the smallest marked value.
    """
    flat = np.concatenate(statistics)
    count = max(1, round(share * len(flat)))
    best = np.argsort(-flat, kind="stable")[:count]
    marks = np.zeros(len(flat), dtype=bool)
    marks[best] = True
    ends = np.cumsum([len(entry) for entry in statistics])[:-1]
    return np.split(marks, ends), float(flat[best[-1]])


def _row(domain: str, steps: Sequence[RankedSteps], fired: Sequence[NDArray[np.bool_]]) -> SufficiencyRow:
    counts = np.array([mask.sum() for mask in fired])  # (items,)
    total = int(counts.sum())
    hit_at: dict[str, float | None] = {}
    stderr_at: dict[str, float | None] = {}
    for k in KS:
        hits = np.array([(entry.rank[mask] < k).sum() for entry, mask in zip(steps, fired, strict=True)])
        hit_at[str(k)] = float(hits.sum() / total) if total else None
        stderr_at[str(k)] = clustered_stderr(hits, counts)
    flips = sum(int(entry.flip[mask].sum()) for entry, mask in zip(steps, fired, strict=True))
    ranks = np.concatenate([entry.rank for entry in steps])
    return SufficiencyRow(
        domain=domain,
        n_items=len(steps),
        n_steps=total,
        hit_at=hit_at,
        stderr_at=stderr_at,
        flip_rate=flips / total if total else None,
        agreement=float((ranks == 0).mean()) if len(ranks) else None,
    )


def clustered_stderr(hits: NDArray[np.int64], counts: NDArray[np.int64]) -> float | None:
    """Standard error of sum(hits) / sum(counts) with items as clusters; None below two items that have steps.

    Steps of one rollout depend on each other, so a binomial error would be too small. With p the ratio and m items that
    have steps: sqrt(m / (m - 1) * sum((hits_i - p counts_i)^2)) / sum(counts) (linearised ratio estimator).
    """
    m = int((counts > 0).sum())
    if m < 2:
        return None
    total = counts.sum()
    residuals = hits - hits.sum() / total * counts
    return float(math.sqrt(m / (m - 1) * (residuals**2).sum()) / total)
