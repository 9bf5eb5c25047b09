"""On-policy collection: where does the SLM go under `s2t`, and what would the LLM have it choose there?

Each item is rolled out by `s2t`, one forward of each model labels the whole rollout, and the steps with the highest
statistics become groups of candidates: under the KL trigger, and by option under triggers that need no LLM, so that the
scorer is trained at the kinds of steps where it will be asked.

Non-goals: training, and collecting from test data (refused).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from select_to_think.collect.records import Group, Trajectory, read_trajectories
from select_to_think.collect.writer import CollectionWriter
from select_to_think.config import CollectConfig, DecodeConfig, SelectConfig
from select_to_think.evaluation.items import Item, assert_unique, refuse_test
from select_to_think.evaluation.results import Provenance, provenance
from select_to_think.evaluation.rollouts import labelled_rollouts
from select_to_think.evaluation.settings import decode_settings, fingerprints
from select_to_think.evaluation.trained_on import assert_not_calibrated_on
from select_to_think.evaluation.workers import Workers, require_same_models, workers_of
from select_to_think.policies.label import Labels
from select_to_think.structures import Progress, S2TError
from select_to_think.text import known_names
from select_to_think.triggers.table import calibrated, find_trigger

if TYPE_CHECKING:
    from select_to_think.session import Session


@dataclass(frozen=True)
class CollectSummary:
    """What a finished collection holds."""

    folder: str
    trajectories: int
    steps: int  # output tokens
    groups: int
    groups_by_trigger: dict[str, int]  # a group of two triggers counts for both
    llm_best_in_group: float | None  # share of groups in which no token outside beats the LLM's best candidate


@dataclass(frozen=True)
class _Plan:
    """What the models and their files decide of a collection."""

    thresholds: dict[str, float]  # of each collected trigger: what a step's statistic must exceed
    models: dict[str, str]  # fingerprints
    calibration: str  # SHA-256
    about: Provenance


def collect(
    holder: Session | Workers,
    items: Sequence[Item],
    config: CollectConfig,
    decode: DecodeConfig,
    out: Path,
    progress: Progress | None = None,
) -> CollectSummary:
    """Roll out, label and store every item in the folder `out`; a run that was killed goes on where it stopped.

    Raises S2TError for test data, questions that the calibration saw, unknown triggers, a group larger than the label's
    support, a folder begun with other settings or models, and a path that cannot be written.
    """
    assert_unique(items)
    refuse_test(items, purpose="collect from")
    workers = workers_of(holder)
    plan = workers.ask(partial(_plan, items=items, config=config, decode=decode))
    size = min(SelectConfig.candidates, config.group_size)
    select = SelectConfig(trigger="kl", trigger_budget=config.collect_budget, candidates=size)
    settings = {
        "config": asdict(config),
        "decode": decode_settings(decode),
        "fingerprints": {**plan.models, "calibration": plan.calibration},
    }
    work = partial(_trajectories, decode=decode, select=select, plan=plan, group_size=config.group_size)
    with CollectionWriter(
        out, items, shard_items=config.shard_items, settings=settings, provenance=plan.about
    ) as writer:
        todo = [item for item in items if item.id not in writer.done]
        if progress:
            progress(len(writer.done), len(items))
        for trajectory in workers.spread(work, todo):
            writer.add(trajectory)
            if progress:
                progress(len(writer.done), len(items))
    return summarise(out)


def _plan(session: Session, items: Sequence[Item], config: CollectConfig, decode: DecodeConfig) -> _Plan:
    """The plan of a collection of these items. Raises S2TError as `collect`."""
    assert_not_calibrated_on(items, session.calibration, purpose="training")
    return _Plan(
        _thresholds(session, config),
        fingerprints(session),
        hashlib.sha256(session.calibration.dumps().encode()).hexdigest(),
        provenance(session, {"collect": asdict(config), "decode": asdict(decode)}, seeds=[decode.seed]),
    )


def _thresholds(session: Session, config: CollectConfig) -> dict[str, float]:
    """The statistic that a step of each collected trigger must exceed."""
    known = [kind.name for kind in calibrated(with_llm=True)]
    names = known_names("trigger to collect under", config.triggers, known)
    if not names:
        raise S2TError(f"no trigger to collect under; choose from: {', '.join(known)}")
    budgets = {name: config.collect_budget if find_trigger(name).needs_llm else config.entropy_budget for name in names}
    return {name: session.calibration.threshold(name, budget) for name, budget in budgets.items()}


def _trajectories(
    session: Session,
    items: Sequence[Item],
    *,
    decode: DecodeConfig,
    select: SelectConfig,
    plan: _Plan,
    group_size: int,
) -> Iterator[Trajectory]:
    """Labelled rollouts in order of finishing."""
    require_same_models(plan.models, fingerprints(session))
    rollouts = labelled_rollouts(session, items, "s2t", decode, select, with_llm=True, llm_top=group_size + 1)
    for index, tokens, labels in rollouts:
        yield make_trajectory(
            items[index],
            session.prompt(items[index].asked, len(tokens), with_llm=True),
            tokens,
            labels,
            thresholds=plan.thresholds,
            group_size=group_size,
        )


def make_trajectory(
    item: Item,
    prompt_ids: Sequence[int],
    tokens: Sequence[int],
    labels: Labels,
    *,
    thresholds: Mapping[str, float],
    group_size: int,
) -> Trajectory:
    """One labelled rollout with a group at each of its P steps whose statistic exceeds a threshold.

    A step that several triggers hit makes one group that names them all, in the order of `thresholds`. Raises S2TError
    if the labels hold fewer than `group_size` usable tokens per step.
    """
    kl = labels.statistics["kl"]  # (P,)
    statistics = {name: labels.statistics[name] for name in thresholds}
    groups = []
    for position in range(len(tokens)):
        hit = [name for name, limit in thresholds.items() if statistics[name][position] > limit]
        if hit:
            statistic = float(statistics[hit[0]][position])
            groups.append(_group(position, ",".join(hit), statistic, tokens[position], labels, group_size))
    return Trajectory(
        item.id,
        item.domain,
        tuple(map(int, prompt_ids)),
        tuple(map(int, tokens)),
        tuple(groups),
        tuple(map(float, kl)),
    )


def _group(position: int, trigger: str, statistic: float, token: int, labels: Labels, size: int) -> Group:
    """The SLM's top `size` tokens at one step, with what the LLM says of them and of the best other token."""
    candidates = tuple(map(int, labels.slm_ids[position, :size]))
    slm = tuple(map(float, labels.slm_logprobs[position, :size]))
    llm = tuple(map(float, labels.llm_logprobs[position, :size]))
    if len(candidates) < size or not np.isfinite([*slm, *llm]).all():
        usable = int(np.isfinite(slm).sum())
        raise S2TError(f"group_size is {size}, but only {usable} tokens can be candidates; choose a smaller one")
    ranked = zip(labels.llm_top_ids[position], labels.llm_top_logprobs[position], strict=True)
    outside = next((float(logprob) for other, logprob in ranked if int(other) not in candidates), None)
    if outside is not None and not np.isfinite(outside):
        outside = None
    chosen = candidates.index(token) if token in candidates else -1
    return Group(position, trigger, statistic, candidates, slm, llm, outside, chosen)


def summarise(folder: Path) -> CollectSummary:
    """Count what a finished collection holds. Raises S2TError as `read_trajectories`."""
    counts: Counter[str] = Counter()
    trajectories = steps = groups = inside = 0
    for trajectory in read_trajectories(folder):
        trajectories += 1
        steps += len(trajectory.output_ids)
        groups += len(trajectory.groups)
        for group in trajectory.groups:
            counts.update(group.triggers)
            outside = group.llm_best_outside_logprob
            inside += outside is None or max(group.llm_logprobs) >= outside
    by_trigger = dict(sorted(counts.items()))
    return CollectSummary(str(folder), trajectories, steps, groups, by_trigger, inside / groups if groups else None)
