"""Calibrating triggers: quantiles of their statistics over greedy rollouts, so that any budget gives a threshold.

The learned trigger carries its own quantiles, from its training.

Non-goals: reading and applying thresholds (`triggers/calibration.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from select_to_think.config import DecodeConfig, SelectConfig
from select_to_think.evaluation.items import Item, assert_unique, question_key, refuse_test
from select_to_think.evaluation.rollouts import labelled_greedy
from select_to_think.evaluation.trained_on import assert_not_trained_on
from select_to_think.files import write_text_atomic
from select_to_think.models.scorer import Scorer
from select_to_think.structures import Floats, Progress, S2TError
from select_to_think.triggers.calibration import Calibration
from select_to_think.triggers.table import find_trigger

if TYPE_CHECKING:
    from select_to_think.session import Session


def calibrate(
    session: Session,
    items: Sequence[Item],
    *,
    decode: DecodeConfig = DecodeConfig(),
    with_llm: bool = True,
    progress: Progress | None = None,
    coupled: Scorer | None = None,
) -> Calibration:
    """Quantiles of entropy and margin, and with the LLM of the KL, over every step of greedy answers to `items`: of
    both definitions, with and without the first steps.

    With a `coupled` scorer the answers are those of the SLM with its adapter on.

    Raises S2TError for test data, for no or doubled items, and with an LLM that has another vocabulary.
    """
    if with_llm and (missing := session.incomparable_llm):
        raise S2TError(f"the KL trigger needs {missing}: calibrate the others with --no-llm")
    assert_unique(items)
    refuse_test(items, purpose="calibrate on")
    found: dict[int, dict[str, Floats]] = {}
    for index, labels in labelled_greedy(session, items, decode, with_llm=with_llm, coupled=coupled):
        found[index] = dict(labels.statistics)
        if progress:
            progress(len(found), len(items))
    return fitted(session, items, [found[index] for index in range(len(items))])


def fitted(session: Session, items: Sequence[Item], statistics: Sequence[Mapping[str, Floats]]) -> Calibration:
    """The quantiles of the `statistics` (trigger -> a value for each step) of the greedy answers to `items`."""
    by_trigger = {name: [answer[name] for answer in statistics] for name in sorted(statistics[0])}
    with_llm = any(find_trigger(name).needs_llm for name in by_trigger)
    llm_fingerprint = session.llm.fingerprint if with_llm else None
    calibration = Calibration.fit(by_trigger, [i.id for i in items], session.slm.fingerprint, llm_fingerprint)
    return replace(calibration, question_keys=[question_key(item) for item in items])


def calibrate_coupled(
    session: Session,
    items: Sequence[Item],
    *,
    decode: DecodeConfig = DecodeConfig(),
    progress: Progress | None = None,
) -> Calibration:
    """Quantiles of entropy and margin over greedy answers of the SLM with a coupled scorer's adapter on.

    Raises S2TError for test data, for no or doubled items, for questions that the scorer was trained on, and for a
    scorer of another mode.
    """
    scorer = session.scorer(SelectConfig(scorer_mode="coupled"))
    if scorer.mode != "coupled":
        raise S2TError(
            f"{scorer.path} is a scorer of mode {scorer.mode}, beside which the SLM alone proposes: "
            "the pair's own thresholds hold, so run `s2t calibrate` without --scorer"
        )
    assert_not_trained_on(items, scorer.path, purpose="calibration")
    return calibrate(session, items, decode=decode, with_llm=False, progress=progress, coupled=scorer)


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write the file atomically. Raises S2TError if the path cannot be written."""
    write_text_atomic(path, calibration.dumps() + "\n")
