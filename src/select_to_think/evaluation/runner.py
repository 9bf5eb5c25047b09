"""Runs methods over items: batched, on workers, resumable after a kill, files in item order.

A rerun of the same command reads what its folder holds, so nothing is decoded twice; a folder that was begun with other
settings, models or items is refused (`run_folder.py`).

Non-goals: counting (`metrics.py`), and loading data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from select_to_think.config import EvalSettings, MethodSettings
from select_to_think.evaluation.fitting import assert_one_fits, fit
from select_to_think.evaluation.grading import vote
from select_to_think.evaluation.grading.sandbox import means_for
from select_to_think.evaluation.items import Item, assert_unique, items_note
from select_to_think.evaluation.meter import Meter
from select_to_think.evaluation.results import RESULTS, RUN, SCHEMA, ItemRecord, Provenance, Results, provenance
from select_to_think.evaluation.run_folder import (
    Part,
    Shard,
    begin,
    finished_parts,
    other_settings,
    remarks,
    resumed,
    tabulate,
)
from select_to_think.evaluation.settings import draws, is_calibrated, method_settings, selection, trained_folders
from select_to_think.evaluation.tracing import make_record, unasked_record
from select_to_think.evaluation.trained_on import assert_not_calibrated_on, assert_not_trained_on
from select_to_think.evaluation.workers import Workers, require_same_models, workers_of
from select_to_think.files import only_writer
from select_to_think.methods import find_method
from select_to_think.structures import Progress, S2TError

if TYPE_CHECKING:
    from select_to_think.session import Session


class SharedClock:
    """Splits wall time evenly among the items that are being decoded at each moment."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._last: float | None = now()
        self._share = 0.0  # seconds that an item would have got that has been there from the beginning
        self._started: dict[int, float] = {}

    def _advance(self) -> None:
        now = self._now()
        if self._last is not None and self._started:
            self._share += (now - self._last) / len(self._started)
        self._last = now

    def start(self, index: int) -> None:
        """An item joins."""
        self._advance()
        self._started[index] = self._share

    def finish(self, index: int) -> float:
        """An item leaves; its seconds. The clock stands until `resume`."""
        if self._last is not None:
            self._advance()
        self._last = None
        return self._share - self._started.pop(index)

    def resume(self) -> None:
        """Let the clock go on."""
        self._last = self._now()


@dataclass(frozen=True)
class Evaluation:
    """Methods over items: what is asked and how; the fields are the arguments of `evaluate`."""

    items: Sequence[Item]
    methods: Sequence[str]
    settings: EvalSettings = EvalSettings()
    shard: Shard | None = None

    @cached_property
    def seeds(self) -> list[int]:
        """Each once; at least one."""
        return list(dict.fromkeys(self.settings.seeds)) or [self.settings.decode.seed]

    @property
    def mine(self) -> list[Item]:
        """The items of this shard. Raises S2TError if there are fewer items than shards."""
        return list(self.items) if self.shard is None else self.shard.of(self.items)

    @cached_property
    def parts(self) -> list[Part]:
        """One for each method, and for each further seed if it draws at random."""
        found = []
        for method in dict.fromkeys(self.methods):
            others = self.seeds[1:] if draws(method, self.settings.select) else []
            found += [Part(method), *(Part(method, seed) for seed in others)]
        return found

    def settings_of(self, part: Part | None = None) -> EvalSettings:
        """The settings with the part's seed (default: the first)."""
        seed = self.seeds[0] if part is None or part.seed is None else part.seed
        return replace(self.settings, decode=replace(self.settings.decode, seed=seed))

    def run(
        self,
        workers: Workers,
        out: Path,
        *,
        begun: Callable[[], None] | None = None,
        progress: Progress | None = None,
    ) -> Results:
        """Answer what is not answered yet in the folder `out`, and count: see `evaluate`."""
        self.check(out)
        about, mine = workers.ask(self.prepared), self.mine
        with ExitStack() as stack:
            for place in dict.fromkeys([out, *(part.path(out).parent for part in self.parts)]):
                stack.enter_context(only_writer(place))
            decisive = workers.ask(self.decisive)
            begin(out, {"schema": SCHEMA, "items": items_note(self.items), **self.prompt_and_shard()}, decisive)
            if begun:
                begun()
            meter = Meter(dict.fromkeys(self.parts, len(mine)), progress)
            for part in self.parts:
                settings, expected = self.settings_of(part), decisive[part.name]
                work = partial(answer, part=part, settings=settings, decisive=expected)
                for done in resumed(part.path(out), mine, partial(workers.spread, work)):
                    meter.part(part)(done, len(mine))
            rows = tabulate(out, baseline=self.settings.baseline, prices=self.settings.prices)
            about["notes"] += remarks(rows)
            if others := other_settings(out, decisive, about["config"]):
                about["config"]["other settings"] = others
            about["config"]["methods"] = list(dict.fromkeys(row.method for row in rows))
            results = Results(rows, about)
            results.save(out / RESULTS)
        return results

    def prepared(self, session: Session) -> Provenance:
        """Where the numbers come from: the pair, the methods, every setting, and what could not be checked.

        Raises S2TError for what the models and their files do not allow.
        """
        notes = self.check_artefacts(session)
        settings = self.settings_of()
        with_llm = any(find_method(method).asks_llm for method in self.methods)
        assert_one_fits(session, self.items, settings.decode.max_new_tokens, with_llm=with_llm)
        settings = replace(settings, select=selection(session, self.methods, settings.select))
        configs = {name: asdict(getattr(settings, name)) for name in ("decode", "select", "mentor", "prices")}
        methods = list(dict.fromkeys(self.methods))
        said = {"methods": methods, "baseline": settings.baseline, **self.prompt_and_shard(), **configs}
        about = provenance(session, said, seeds=self.seeds)
        about["notes"] += notes
        return about

    def decisive(self, session: Session) -> dict[str, dict[str, Any]]:
        """By name of each part, everything that decides its answers."""
        return {part.name: method_settings(session, part.method, self.settings_of(part)) for part in self.parts}

    def prompt_and_shard(self) -> dict[str, Any]:
        """Prompts, shard and grading, where there is something to say of them."""
        style = None if self.settings.style is None else asdict(self.settings.style)
        first = None if self.settings.contradictory == "last" else self.settings.contradictory
        said = {"prompt": style, "shard": None if self.shard is None else str(self.shard), "contradictory": first}
        return {name: value for name, value in said.items() if value is not None}

    def check(self, out: Path) -> None:
        """Raise S2TError for what can be refused without a model: see `evaluate`."""
        assert_unique(self.items)
        if not self.methods:
            raise S2TError("no method to evaluate; name some with --methods, for example greedy,s2t-local")
        for method in self.methods:
            find_method(method)
        name = self.settings.baseline  # the default may be missing: the rows then have no difference
        known = dict.fromkeys([*self.methods, *(finished_parts(out) if (out / RUN).exists() else ())])
        if name not in known and name != EvalSettings.baseline:
            choices = " or ".join(known)
            raise S2TError(f"the baseline {name!r} is not evaluated: add it to --methods, or take {choices}")

    def check_artefacts(self, session: Session) -> list[str]:
        """Raise S2TError for what would be found only after decoding: see `evaluate`.

        Returns what could not be checked.
        """
        settings = self.settings
        if any(item.answer_type == "code" for item in self.items):
            means_for(settings.allow_code_execution)
        unknown: dict[Path, None] = {}
        for method in self.methods:
            session.decoder(method, MethodSettings(settings.decode, settings.select, settings.mentor))
            if is_calibrated(method, settings.select):
                coupled = session.coupled(method, settings.select)
                assert_not_calibrated_on(self.items, session.thresholds(coupled), purpose="test")
            for folder in trained_folders(session, method, settings.select):
                if not assert_not_trained_on(self.items, folder, purpose="test"):
                    unknown[folder] = None
        return [
            f"{folder.name} does not say which questions it was trained on, so it is not checked that none is tested "
            "here; train it again to have that checked"
            for folder in unknown
        ]


def answer(
    session: Session,
    items: Sequence[Item],
    *,
    part: Part,
    settings: EvalSettings,
    decisive: Mapping[str, Any],
) -> Iterator[ItemRecord]:
    """Decode and grade `items`, as they finish. Loading and warming up, grading and writing are not timed.

    Raises S2TError where this session would answer otherwise than the one that said what is `decisive`.
    """
    method, decode, select, mentor = part.method, settings.decode, settings.select, settings.mentor
    require_same_models(decisive, method_settings(session, method, settings))
    fitting, too_long = fit(session, items, decode.max_new_tokens, with_llm=find_method(method).asks_llm)
    for item, length in too_long:
        yield unasked_record(item, method, length)
    if not fitting:
        return
    session.generate([fitting[0][0].asked], method, replace(decode, max_new_tokens=1), select, mentor)
    clock = SharedClock()

    def questions() -> Iterator[str]:
        for index, (item, _) in enumerate(fitting):
            clock.start(index)
            yield item.asked

    def voted(index: int, text: str) -> str | None:
        item, _ = fitting[index]
        which = settings.contradictory
        return vote(text, item.answer_type, choices=item.choices, meta=item.meta, contradictory=which)

    for index, generation in session.stream(questions(), method, decode, select, mentor, extract=voted):
        seconds = clock.finish(index)
        item, length = fitting[index]
        yield make_record(session, item, method, generation, seconds, prompt_tokens=length, settings=settings)
        clock.resume()


def evaluate(
    holder: Session | Workers,
    items: Sequence[Item],
    methods: Sequence[str],
    settings: EvalSettings = EvalSettings(),
    *,
    out: Path | None = None,
    shard: Shard | None = None,
    begun: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> Results:
    """Answer every item by every method and count.

    Args:
        holder: the pair, or workers that hold it.
        items: the questions, each id once.
        methods: names of `methods.py`.
        settings: how answers are made, graded and compared.
        out: the folder of records and `results.json` (default: none is kept). A run that was killed goes on where it
            stopped; methods that were finished in that folder before stay in its results.
        shard: answer only this share of the items; `merge` joins the folders of all shares.
        begun: called once, when nothing is left to be refused and decoding begins.
        progress: counts (item, method, seed) triples.

    Raises:
        S2TError: an unknown method, a baseline without answers, items that something was calibrated or trained on,
            code items without `allow_code_execution` or where nothing confines them, and a folder that was begun with
            other settings or cannot be written.
    """
    evaluation = Evaluation(items, methods, settings, shard)
    with nullcontext(out) if out is not None else TemporaryDirectory() as folder:
        return evaluation.run(workers_of(holder), Path(folder), begun=begun, progress=progress)
