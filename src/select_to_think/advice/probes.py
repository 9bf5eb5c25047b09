"""Small trainings on one half of the questions, for the other half: what would training gain?

A probe is the real thing, trained as `s2t collect` and `s2t train` do it, on few questions. More questions should give
more, so what it gains is about the least that training gains, and its ceiling (`Trial.ceiling`) about the most.

Non-goals: trying what was trained (`trials.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from select_to_think.advice.document import DISTILL
from select_to_think.advice.settings import MODES, ProbeTraining
from select_to_think.collect.collect import collect
from select_to_think.collect.records import Trajectory, read_trajectories
from select_to_think.config import CollectConfig, DecodeConfig, ScoreKind, ScorerMode
from select_to_think.evaluation.calibrate import calibrate_coupled, save_calibration
from select_to_think.evaluation.items import Item, question_key
from select_to_think.evaluation.meter import Meter
from select_to_think.structures import Progress, S2TError
from select_to_think.training.distill import train_distill
from select_to_think.training.groups import is_held_out
from select_to_think.training.scorer import train_scorer
from select_to_think.training.settings import DistillConfig, ScorerConfig
from select_to_think.triggers.calibration import CALIBRATION, Calibration

if TYPE_CHECKING:
    from select_to_think.session import Session

COLLECTION = "collection"
SCORES: dict[ScorerMode, ScoreKind] = {
    "activated": "anchored",
    "proposer": "adapted",
    "coupled": "anchored",
}  # the best
THRESHOLD_SHARE = 0.2  # of the questions, for the thresholds of a coupled scorer


@dataclass(frozen=True)
class Learner:
    """What trains on some questions, into a folder of its own. `calibration`: of other questions."""

    session: Session
    items: Sequence[Item]
    calibration: Calibration
    training: ProbeTraining
    decode: DecodeConfig
    out: Path

    def collect(self, progress: Progress | None = None) -> None:
        """Roll the questions out; what was rolled out before is kept."""
        config = CollectConfig(items=len(self.items))
        with self.session.using(self.calibration):
            collect(self.session, self.items, config, self.decode, self.out / COLLECTION, progress)

    def learn(self, what: str, progress: Progress | None = None) -> Path:
        """The folder of `distill`, or of the scorer of a mode; trained unless it is there.

        Raises S2TError as the trainings do.
        """
        folder = self.out / what
        if not folder.exists():
            mode = next((mode for mode in MODES if mode == what), None)
            if mode is None:
                self.distil(folder, progress)
            else:
                self.score(mode, folder, progress)
        if what == "coupled" and not (folder / CALIBRATION).exists():
            items = [item for item in self.items if for_thresholds(item)]
            with self.session.using(self.calibration, scorer=str(folder)):
                save_calibration(calibrate_coupled(self.session, items, decode=self.decode), folder / CALIBRATION)
        return folder

    def distil(self, folder: Path, progress: Progress | None) -> None:
        """Fine-tune the SLM on the LLM's distribution."""
        meter = Meter({"answering": 1, "distilling": 2}, progress)
        parts = iter(meter.weights)
        train_distill(
            self.session,
            self.trajectories(),
            DistillConfig(**asdict(self.training)),
            self.decode,
            folder,
            resume=True,
            question_keys=map(question_key, self.items),
            stage=lambda _: nullcontext(meter.part(next(parts))),
        )

    def score(self, mode: ScorerMode, folder: Path, progress: Progress | None) -> None:
        """Train a scorer; a coupled one without the questions of its thresholds."""
        self.session.give_back()
        learned = {item.id: item for item in self.items if mode != "coupled" or not for_thresholds(item)}
        train_scorer(
            self.session.slm,
            (each for each in self.trajectories() if each.id in learned),
            ScorerConfig(**asdict(self.training), mode=mode, score=SCORES[mode]),
            folder,
            seed=self.decode.seed,
            resume=True,
            question_keys=map(question_key, learned.values()),
            progress=progress,
        )

    def trajectories(self) -> Iterator[Trajectory]:
        """What was collected."""
        return read_trajectories(self.out / COLLECTION)


def for_thresholds(item: Item) -> bool:
    """Whether a question is left to the thresholds of a coupled scorer."""
    return is_held_out(question_key(item), THRESHOLD_SHARE, salt="thresholds")


def untrainable(session: Session, what: str) -> str | None:
    """Why something cannot be trained with this pair, if so."""
    try:
        _ = session.slm.trainable
        if what == DISTILL:
            _ = session.local_llm.trainable
    except S2TError as error:
        return str(error)
    return None
