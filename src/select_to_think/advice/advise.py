"""What to do with this pair? Measured on the user's questions, tried by small trainings, said plainly.

Each part is what another command does, on halves of the questions: greedy answers with both models' views of them
(`s2t measure`, `s2t calibrate`), ways to answer (`s2t eval`), collecting and training (`s2t collect`, `s2t train`).
A run that was killed goes on where it stopped; the greedy answers are kept once all of them are there.

Non-goals: the parts themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from select_to_think.advice.adviser import Adviser
from select_to_think.advice.document import Advice
from select_to_think.advice.settings import AdviseConfig, ProbeTraining
from select_to_think.config import EvalSettings
from select_to_think.evaluation.fitting import only_fitting
from select_to_think.evaluation.items import Item, assert_unique, assert_unseen, items_note, question_key, refuse_test
from select_to_think.evaluation.meter import Meter
from select_to_think.evaluation.run_folder import begin
from select_to_think.evaluation.settings import decode_settings
from select_to_think.files import only_writer
from select_to_think.structures import S2TError, Stage, silent

if TYPE_CHECKING:
    from select_to_think.session import Session

FEWEST = 20  # questions


def advise(
    session: Session,
    items: Sequence[Item],
    config: AdviseConfig = AdviseConfig(),
    training: ProbeTraining = ProbeTraining(),
    settings: EvalSettings = EvalSettings(),
    *,
    out: Path,
    train_items: Sequence[Item] = (),
    begun: Callable[[], None] | None = None,
    stage: Stage = silent,
) -> Advice:
    """Measure a pair on some questions, and recommend what to do with it.

    Args:
        session: the pair; nothing that was trained or calibrated for it is used.
        items: the questions, no test data. If none has an answer, the LLM's answers are the right ones.
        config: what is tried.
        training: how the probes are trained.
        settings: how answers are made, graded and priced.
        out: the folder of all that is left behind: `advice.json`, and what `s2t report` reads.
        train_items: `config.train`: other questions, on which the recommended way is trained.
        begun: called once, when nothing is left to be refused.
        stage: shows the progress of each part: advising, then training.

    Raises:
        S2TError: test data, too few items, an LLM that cannot be compared with the SLM, training questions that are
            among the items, a folder that was begun with other settings or cannot be written.
    """
    check(session, items, config, train_items)
    items, twice = each_once(items)
    items, too_long = only_fitting(session, items, settings.decode.max_new_tokens, with_llm=True)
    notes = twice + too_long
    enough(items)
    with only_writer(out):
        begin(out, {"schema": 1, "items": items_note(items)}, {"advise": decisive(session, config, training, settings)})
        if begun:
            begun()
        adviser = Adviser(session, items, config, training, settings, out, notes)
        with stage("advising") as progress:
            adviser.try_all(Meter(adviser.weights(), progress))
        advice = adviser.advice()
        adviser.save(advice)
        if config.train:
            with stage("training what is recommended") as progress:
                advice = adviser.trained(
                    advice, train_items, Meter({"collect": 200, "learn": 400, "try": 100}, progress)
                )
            adviser.save(advice)
    return advice


def check(session: Session, items: Sequence[Item], config: AdviseConfig, train_items: Sequence[Item]) -> None:
    """Raise S2TError for what would be found only after decoding: see `advise`."""
    assert_unique(items)
    enough(items)
    refuse_test([*items, *train_items], purpose="take advice from")
    if any(item.answer_type == "code" for item in items):
        raise S2TError("advice runs no programs that a model wrote: leave the items with answer_type code out")
    if missing := session.incomparable_llm:
        raise S2TError(f"advice compares the two models step by step, which needs {missing}; try `s2t eval` instead")
    answered = sum(bool(item.answer) for item in items)
    if 0 < answered < len(items):
        raise S2TError(
            f"{len(items) - answered} of {len(items)} questions have no answer: give all of them one, or none"
        )
    if config.train:
        assert_unique(train_items)
        assert_unseen(train_items, {question_key(item): item.id for item in items}, names=("advice", "training"))


def each_once(items: Sequence[Item]) -> tuple[list[Item], list[str]]:
    """The items without those that ask what an earlier one asks, and what a person must be told of them."""
    first = {question_key(item): item for item in reversed(items)}
    kept = [item for item in items if first[question_key(item)] is item]
    left = len(items) - len(kept)
    return kept, [f"{left} of {len(items)} questions stand there a second time: they were left out"] * bool(left)


def enough(items: Sequence[Item]) -> None:
    """Raise S2TError for too few questions."""
    if len(items) < FEWEST:
        raise S2TError(f"advice needs at least {FEWEST} questions, and 100 to say much; got {len(items)}")


def decisive(
    session: Session, config: AdviseConfig, training: ProbeTraining, settings: EvalSettings
) -> dict[str, object]:
    """What decides the advice: a run goes on only with the same."""
    return {
        "slm": session.slm.fingerprint,
        "llm": session.llm.fingerprint,
        "tried": {"budgets": config.tried_budgets, "modes": config.tried_modes, "probe": config.probe},
        "training": asdict(training),
        "decode": decode_settings(settings.decode),
        "select": asdict(settings.select),
        "mentor": asdict(settings.mentor),
    }
