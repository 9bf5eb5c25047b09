"""The work of one `advise`: what is tried, in which order, and what is kept of it.

Every way is answered with what was made from the other half of the questions (`trials.py`).

Non-goals: what a way or a class of mistakes is (`trials.py`, `divergences.py`), and what follows (`recommend.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from select_to_think.advice.divergences import divergence_rows, observe, recall_rows
from select_to_think.advice.document import DISTILL, GREEDY, LLM, MENTOR, Advice, Check, Recommendation, Way
from select_to_think.advice.probes import Learner, untrainable
from select_to_think.advice.recommend import either, interval, marks, recommend
from select_to_think.advice.settings import AdviseConfig, ProbeTraining
from select_to_think.advice.trials import Records, Trial, agreeing, at, counted, graded_by_llm, in_halves, tried
from select_to_think.config import EvalSettings, SelectConfig
from select_to_think.evaluation.calibrate import fitted
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.measure import described, sufficiency
from select_to_think.evaluation.meter import Meter
from select_to_think.evaluation.results import (
    MEASURE,
    RESULTS,
    ResultRow,
    Results,
    provenance,
    read_records,
)
from select_to_think.evaluation.run_folder import Part, remarks
from select_to_think.evaluation.runner import evaluate
from select_to_think.files import write_jsonl_atomic
from select_to_think.structures import S2TError
from select_to_think.triggers.calibration import Calibration

if TYPE_CHECKING:
    from select_to_think.session import Session

STEPS, ANSWERS, TRAINED = "steps.jsonl", "answers", "trained"
EPOCH = {"cpu": 1.2, "cuda": 0.2}  # over half of the questions, in greedy answers to all; on CUDA a guess
UNKNOWN_RATIO = 10.0  # of what a token costs an LLM behind a server and the SLM, to tell the time that is left


@dataclass
class Adviser:
    """See `advise`, whose arguments the first fields are."""

    session: Session
    items: Sequence[Item]
    config: AdviseConfig
    training: ProbeTraining
    settings: EvalSettings
    out: Path
    notes: list[str]
    unprobed: list[str] = field(default_factory=list)
    records: dict[str, Records] = field(default_factory=dict)  # by way, in the order of the halves
    rows: dict[str, list[ResultRow]] = field(default_factory=dict)  # by way
    ways: dict[str, Way] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """See whether the questions have answers, and divide them."""
        self.without_answers = not any(item.answer for item in self.items)
        self.divide(self.items)

    def divide(self, items: Sequence[Item]) -> None:
        """Put the items in the order of their halves."""
        self.halves = in_halves(items)
        self.items = [item for half in self.halves for item in half]

    @property
    def select(self) -> SelectConfig:
        """The settings of selecting at the budget in the middle."""
        return replace(self.settings.select, trigger_budget=self.config.main_budget)

    def plain(self) -> list[Trial]:
        """What is tried without training anything."""
        found = [Trial(GREEDY, GREEDY, self.select), Trial(LLM, LLM, self.select)]
        for method, trigger in (("takeover", "kl"), ("s2t", "kl"), ("s2t", "entropy")):
            words = method if trigger == "kl" else f"{method}, {trigger}"
            for budget in self.config.tried_budgets:
                select = replace(self.select, trigger=trigger, trigger_budget=budget)
                found.append(Trial(f"{words} {at(budget)}", method, select))
        return [*found, Trial(MENTOR, MENTOR, self.select)]

    def trainings(self) -> list[Trial]:
        """What would be tried by training it."""
        if not self.config.probe:
            return []
        select = replace(self.select, trigger="entropy")
        selecting = f"s2t, entropy {at(self.config.main_budget)}"
        found = [Trial(DISTILL, DISTILL, select, "probe", learns=DISTILL, ceiling=LLM)]
        for mode in self.config.tried_modes:
            ceiling = LLM if mode == "coupled" else selecting
            found.append(Trial(f"s2t-local, {mode}", "s2t-local", select, "probe", learns=mode, ceiling=ceiling))
        return found

    def learned(self) -> list[Trial]:
        """What can be tried so with this pair."""
        return [trial for trial in self.trainings() if untrainable(self.session, trial.learns) is None]

    def weights(self) -> dict[str, int]:
        """What each part costs, in hundredths of the SLM's greedy answers to all questions; roughly."""
        slm, ratio = self.session.slm.model, UNKNOWN_RATIO
        epoch = EPOCH["cpu" if self.session.slm.device.type == "cpu" else "cuda"]
        if self.session.reached is None:
            ratio = self.session.local_llm.model.num_parameters() / slm.num_parameters()
        costs = {ANSWERS: ratio if self.without_answers else 0.0, STEPS: 1.5 + ratio / 4}
        for trial in self.plain():
            costs[trial.name] = {GREEDY: 1.0, LLM: ratio}.get(trial.name, 1.5 + ratio / 4)
        costs |= {f"collect {number}": 1 + ratio / 4 for number in (0, 1)}
        for trial in self.learned():
            costs |= {f"{trial.learns} {number}": epoch * self.training.epochs for number in (0, 1)}
            costs[trial.name] = 1.5
        return {name: round(100 * cost) for name, cost in costs.items()}

    def try_all(self, meter: Meter) -> None:
        """Look at greedy answers, and try every way."""
        if self.without_answers:
            self.take_answers(meter)
        decode, path = self.settings.decode, self.out / STEPS
        self.steps = observe(self.session, self.halves, decode, self.settings.select, path, meter.part(STEPS))
        first, second = (self.thresholds(half) for half in self.halves)
        self.sides = [(self.halves[0], second), (self.halves[1], first)]
        for trial in self.plain():
            self.take(trial, meter)
        for trial in self.trainings():
            if reason := untrainable(self.session, trial.learns):
                self.unprobed.append(f"{trial.name} was not tried: {reason}.")
        if self.learned():
            self.probe(meter)

    def take_answers(self, meter: Meter) -> None:
        """Let the LLM's answers be the right ones; questions that it does not answer are left out."""
        folder = self.out / ANSWERS
        evaluate(self.session, self.items, [LLM], self.settings, out=folder, progress=meter.part(ANSWERS))
        records = read_records(Part(LLM).path(folder))
        items = graded_by_llm(self.items, records)
        if not items:
            raise S2TError("the LLM answers none of these questions: raise --max-new-tokens, or give them answers")
        if lost := len(self.items) - len(items):
            self.notes.append(f"the LLM gives {lost} of {len(self.items)} questions no answer: they were left out")
        self.divide(items)
        self.records[LLM] = agreeing(records, self.items)

    def thresholds(self, items: Sequence[Item]) -> Calibration:
        """Those of the greedy answers to some items."""
        found = [self.steps[item.id] for item in items]
        statistics = [{name: entry.statistic(name) for name in entry.statistics} for entry in found]
        return fitted(self.session, items, statistics)

    def take(self, trial: Trial, meter: Meter) -> Way:
        """Try a way on all items, and count."""
        if trial.name not in self.records:
            progress = meter.part(trial.name)
            self.records[trial.name] = tried(self.session, self.sides, trial, self.settings, self.out, progress)
        rows, way = counted(trial, self.records[trial.name], self.records[GREEDY], self.settings)
        self.rows[trial.name], self.ways[trial.name] = rows, way
        return way

    def probe(self, meter: Meter) -> None:
        """Train on each half what is tried on the other; what cannot be trained is noted."""
        learners = [
            self.learner(items, calibration, self.out / f"{TRAINED}-on-half-{number}")
            for number, (items, calibration) in enumerate(self.sides, start=1)
        ]
        try:
            for number, learner in enumerate(learners):
                learner.collect(meter.part(f"collect {number}"))
        except S2TError as error:
            self.unprobed.append(f"nothing was trained: {error}.")
            return
        for trial in self.learned():
            try:
                folders = [
                    learner.learn(trial.learns, meter.part(f"{trial.learns} {number}"))
                    for number, learner in enumerate(learners)
                ]
            except S2TError as error:
                self.unprobed.append(f"{trial.name} was not tried: {error}.")
                continue
            others = tuple({trial.uses: str(folder)} for folder in reversed(folders))
            self.take(replace(trial, folders=others, trained_on=len(self.items) // 2), meter)

    def learner(self, items: Sequence[Item], calibration: Calibration, folder: Path) -> Learner:
        """What trains on some items."""
        return Learner(self.session, items, calibration, self.training, self.settings.decode, folder)

    def advice(self) -> Advice:
        """What was found, and what follows from it."""
        config, items = self.config, self.items
        steps = [self.steps[item.id] for item in items]
        candidates = self.settings.select.candidates
        rows, threshold = sufficiency(items, [entry.ranked for entry in steps], config.main_budget)
        decode = self.settings.decode
        self.sufficiency = described(self.session, rows, threshold, self.select, decode, self.notes)
        headroom = self.ways[f"takeover {at(config.tried_budgets[-1])}"].gain
        divergences = divergence_rows(items, steps, candidates)
        ways = list(self.ways.values())
        right = {name: marks(records) for name, records in self.records.items()}
        settings = {name: asdict(getattr(self.settings, name)) for name in ("decode", "select", "mentor", "prices")}
        tried_ = {"advise": {**asdict(config), "train_data": None}, "training": asdict(self.training)}
        about = provenance(self.session, {**tried_, **settings}, seeds=[self.settings.decode.seed])
        about["notes"] += [*self.notes, *remarks([rows[-1] for rows in self.rows.values()])]
        found = Advice(
            graded_by="llm" if self.without_answers else "answers",
            candidates=candidates,
            n_items=len(items),
            domains=list(dict.fromkeys(item.domain for item in items)),
            headroom=headroom,
            hit_at=self.sufficiency.rows[-1].hit_at,
            main_budget=config.main_budget,
            divergences=divergences,
            recall=recall_rows(steps, config.tried_budgets, candidates),
            ways=ways,
            either=either([way for way in ways if way.kind == "probe"], right),
            recommendation=Recommendation(GREEDY, None, None, [], []),
            check=None,
            provenance=about,
        )
        return replace(found, recommendation=recommend(found, right, self.unprobed))

    def trained(self, advice: Advice, items: Sequence[Item], meter: Meter) -> Advice:
        """The advice with the check of what it predicted: what it recommends, trained on other items."""
        name = advice.recommendation.train
        trial = next((trial for trial in self.learned() if trial.name == name), None)
        if trial is None:
            return advice
        learner = self.learner(items, self.thresholds(self.items), self.out / TRAINED)
        learner.collect(meter.part("collect"))
        folder = str(learner.learn(trial.learns, meter.part("learn")))
        last = f"{trial.name}, trained"
        meter = Meter({last: 1}, meter.part("try"))
        both = ({trial.uses: folder}, {trial.uses: folder})
        way = self.take(replace(trial, name=last, kind="trained", folders=both, trained_on=len(items)), meter)
        probe, ceiling = self.ways[trial.name].gain, self.ways[trial.ceiling or LLM].gain
        held = probe.low <= way.gain.difference <= ceiling.high
        words = (
            f"Trained on {len(items)} questions, {name} gains {interval(way.gain)}; predicted was something between "
            f"{100 * probe.low:+.1f} and {100 * ceiling.high:+.1f}: {'so it is' if held else 'that was wrong'}."
        )
        return replace(advice, ways=[*advice.ways, way], check=Check(way, folder, probe.low, ceiling.high, held, words))

    def save(self, advice: Advice) -> None:
        """Write the advice, and beside it a run that `s2t report` reads: one way of each method, and Hit@k."""
        scorers = [way for way in self.ways.values() if way.row.method == "s2t-local"]
        names = [GREEDY, DISTILL, *([max(scorers, key=lambda way: way.row.accuracy).name] if scorers else ())]
        names += [MENTOR, *(f"{method} {at(self.config.main_budget)}" for method in ("s2t", "takeover")), LLM]
        rows = []
        for name in (name for name in names if name in self.ways):
            rows += self.rows[name]
            path = Part(self.ways[name].row.method).path(self.out)
            write_jsonl_atomic(path, (record.to_json() for record in self.records[name]))
        Results(tuple(rows), advice.provenance).save(self.out / RESULTS)
        self.sufficiency.save(self.out / MEASURE)
        advice.save(self.out)
