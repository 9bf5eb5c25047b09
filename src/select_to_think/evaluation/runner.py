"""Runs methods over items: batched through the session, resumable after a kill, files in item order.

A rerun of the same command reads what its folder holds, so nothing is decoded twice; a folder that was begun with other
settings, models or items is refused (`run_folder.py`).

Non-goals: counting (`metrics.py`), and loading data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from select_to_think.config import EvalSettings
from select_to_think.evaluation.fitting import fit
from select_to_think.evaluation.grading import extract
from select_to_think.evaluation.items import Item, assert_unique, items_note
from select_to_think.evaluation.results import RESULTS, SCHEMA, ItemRecord, Results, provenance
from select_to_think.evaluation.run_folder import (
    RUN,
    Part,
    Shard,
    begin,
    finished_parts,
    remarks,
    resumed,
    stored_runs,
    tabulate,
)
from select_to_think.evaluation.settings import draws, is_calibrated, method_settings, selection, trained_folders
from select_to_think.evaluation.tracing import make_record, unasked_record
from select_to_think.evaluation.trained_on import assert_not_calibrated_on, assert_not_trained_on
from select_to_think.files import only_writer
from select_to_think.policies.table import NEEDS_LLM, parse_method
from select_to_think.structures import Progress, S2TError

if TYPE_CHECKING:
    from select_to_think.session import Session


def evaluate(
    session: Session,
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
        session: the pair.
        items: the questions, each id once.
        methods: names of `policies/table.py`.
        settings: how answers are made, graded and compared.
        out: the folder of records and `results.json` (default: none is kept). A run that was killed goes on where it
            stopped; methods that were finished in that folder before stay in its results.
        shard: answer only this share of the items; `merge` joins the folders of all shares.
        begun: called once, when nothing is left to be refused and decoding begins.
        progress: counts (item, method, seed) triples.

    Raises:
        S2TError: an unknown method, a baseline without answers, items that something was calibrated or trained on,
            code items without `allow_code_execution`, and a folder that was begun with other settings or cannot be
            written.
    """
    methods = list(dict.fromkeys(methods))
    seeds = list(dict.fromkeys(settings.seeds)) or [settings.decode.seed]
    settings = seeded(settings, seeds[0])
    notes = check(session, items, methods, settings)
    check_baseline(settings.baseline, methods, out)
    recorded = replace(settings, select=selection(session, methods, settings.select))
    about = provenance(session, {"methods": methods, **described(recorded, shard)}, seeds=seeds)
    about["notes"] += notes
    run = {"schema": SCHEMA, "items": items_note(items), **prompt_and_shard(settings, shard)}
    mine = items if shard is None else shard.of(items)
    parts = dict(part for method in methods for part in parts_of(method, seeds, settings))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory())) if out is None else out
        for place in dict.fromkeys([folder, *(part.path(folder).parent for part in parts)]):
            stack.enter_context(only_writer(place))
        decisive = {part.name: method_settings(session, part.method, own) for part, own in parts.items()}
        begin(folder, run, decisive)
        if begun:
            begun()
        for number, (part, own) in enumerate(parts.items()):
            for done in resumed(part.path(folder), mine, partial(answer, session, part.method, own)):
                if progress:
                    progress(number * len(mine) + done, len(parts) * len(mine))
        rows = tabulate(stored_runs(folder), baseline=settings.baseline, prices=settings.prices)
        about["notes"] += remarks(rows)
        results = Results(rows, about)
        results.save(folder / RESULTS)
    return results


def seeded(settings: EvalSettings, seed: int) -> EvalSettings:
    """The settings with another seed."""
    return replace(settings, decode=replace(settings.decode, seed=seed))


def described(settings: EvalSettings, shard: Shard | None) -> dict[str, Any]:
    """What the provenance says of settings and shard."""
    configs = {name: asdict(getattr(settings, name)) for name in ("decode", "select", "mentor", "prices")}
    return {"baseline": settings.baseline, **prompt_and_shard(settings, shard), **configs}


def prompt_and_shard(settings: EvalSettings, shard: Shard | None) -> dict[str, Any]:
    """Prompts, shard and grading of a run, where there is something to say of them."""
    style = None if settings.style is None else asdict(settings.style)
    first = None if settings.contradictory == "last" else settings.contradictory
    said = {"prompt": style, "shard": None if shard is None else str(shard), "contradictory": first}
    return {name: value for name, value in said.items() if value is not None}


def parts_of(method: str, seeds: Sequence[int], settings: EvalSettings) -> Iterator[tuple[Part, EvalSettings]]:
    """The parts of a method, each with its settings: one for each seed if it draws at random, else a single one."""
    yield Part(method), seeded(settings, seeds[0])
    if draws(method, settings.select):
        yield from ((Part(method, seed), seeded(settings, seed)) for seed in seeds[1:])


def check(session: Session, items: Sequence[Item], methods: Sequence[str], settings: EvalSettings) -> list[str]:
    """Raise S2TError for what would be found only after decoding: see `evaluate`. Returns what could not be checked."""
    assert_unique(items)
    if not methods:
        raise S2TError("no method to evaluate; name some with --methods, for example greedy,s2t-local")
    for method in methods:
        parse_method(method)
    if not settings.allow_code_execution and any(item.answer_type == "code" for item in items):
        raise S2TError("grading these items runs code that a model wrote; allow it with --allow-code-execution")
    unknown: dict[Path, None] = {}
    for method in methods:
        session.policy(method, settings.decode, settings.select, settings.mentor)
        if is_calibrated(method, settings.select):
            assert_not_calibrated_on(items, session.calibration, purpose="test")
        for folder in trained_folders(session, method, settings.select):
            if not assert_not_trained_on(items, folder):
                unknown[folder] = None
    return [
        f"{folder.name} does not say which questions it was trained on, so it is not checked that none is tested here; "
        "train it again to have that checked"
        for folder in unknown
    ]


def check_baseline(baseline: str, methods: Sequence[str], out: Path | None) -> None:
    """Raise S2TError for a baseline that is neither among the methods nor finished in `out`.

    The default is allowed to be missing: nobody asked for it, and the rows then have no difference.
    """
    known = dict.fromkeys([*methods, *(finished_parts(out) if out is not None and (out / RUN).exists() else ())])
    if baseline not in known and baseline != EvalSettings.baseline:
        raise S2TError(f"the baseline {baseline!r} is not evaluated: add it to --methods, or take {' or '.join(known)}")


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


def answer(session: Session, method: str, settings: EvalSettings, items: Sequence[Item]) -> Iterator[ItemRecord]:
    """Decode and grade `items`, as they finish. Loading and warming up, grading and writing are not timed."""
    decode, select, mentor = settings.decode, settings.select, settings.mentor
    fitted = fit(session, items, decode.max_new_tokens, with_llm=parse_method(method)[0] in NEEDS_LLM)
    for item, length in fitted.too_long:
        yield unasked_record(item, method, length)
    if not fitted.fitting:
        return
    session.generate([fitted.fitting[0][0].asked], method, replace(decode, max_new_tokens=1), select, mentor)
    clock = SharedClock()

    def questions() -> Iterator[str]:
        for index, (item, _) in enumerate(fitted.fitting):
            clock.start(index)
            yield item.asked

    def vote(index: int, text: str) -> str | None:
        item, _ = fitted.fitting[index]
        options: dict[str, Any] = {"choices": item.choices, "meta": item.meta, "contradictory": settings.contradictory}
        return extract(text, item.answer_type, **options).extracted

    for index, generation in session.stream(questions(), method, decode, select, mentor, extract=vote):
        seconds = clock.finish(index)
        item, length = fitted.fitting[index]
        yield make_record(
            session,
            item,
            method,
            generation,
            seconds,
            prompt_tokens=length,
            allow_code_execution=settings.allow_code_execution,
            contradictory=settings.contradictory,
        )
        clock.resume()
