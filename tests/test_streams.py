"""Several callers of one session: each gets what it would get alone."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from drive import free_slots
from select_to_think.config import DecodeConfig, MethodSettings, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.runtime import Runtime
from select_to_think.session import Session
from select_to_think.structures import S2TError
from tiny import tiny_loaded
from training_fixtures import write_scorer

DECODE = DecodeConfig(max_new_tokens=16, max_batch=2)
SELECT = SelectConfig(trigger="random", trigger_budget=0.4)
QUESTIONS = ["w5 w6 w7", "w9", "w8 w30 w31 w32 w12", "w40 w41", "w11 w12 w13"]
METHODS = ("greedy", "s2t-local", "s2t", "maj@3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scorer(tmp_path_factory.mktemp("s") / "scorer", tiny_loaded(0), "coupled", "bins")


def fresh(folder: Path) -> Session:
    config = PairConfig(slm="tiny", scorer=str(folder))
    return Session(config, slm=tiny_loaded(0), llm=tiny_loaded(1, 3), runtime=RuntimeConfig(kv_memory_gib=0.01))


def tokens(found: Any) -> dict[int, tuple[int, ...]]:
    return {index: generation.tokens for index, generation in found}


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, dict[int, tuple[int, ...]]]:
    return {method: tokens(fresh(folder).stream(QUESTIONS, method, DECODE, SELECT)) for method in METHODS}


def test_streams_of_one_thread_do_not_disturb_each_other(folder: Path, alone: Any) -> None:
    session = fresh(folder)
    slow = session.stream(QUESTIONS, "s2t-local", DECODE, SELECT)
    first = next(slow)
    assert tokens(session.stream(QUESTIONS, "greedy", DECODE)) == alone["greedy"]
    others = [session.stream(QUESTIONS, method, DECODE, SELECT) for method in ("s2t", "maj@3")]
    for method, found in zip(("s2t", "maj@3"), zip(*zip(*others, strict=True), strict=True), strict=True):
        assert tokens(found) == alone[method]
    assert tokens([first, *slow]) == alone["s2t-local"]


def test_streams_of_several_threads_do_not_disturb_each_other(folder: Path, alone: Any) -> None:
    session = fresh(folder)  # nothing is made yet: the threads need the same models and adapter
    found: list[tuple[str, Any]] = []

    def read(method: str) -> None:
        found.append((method, tokens(session.stream(QUESTIONS, method, DECODE, SELECT))))

    threads = [Thread(target=read, args=(method,)) for method in (*METHODS, *METHODS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == len(threads) and all(tokens == alone[method] for method, tokens in found)


def test_what_is_left_unread_is_given_back(folder: Path, alone: Any) -> None:
    session = fresh(folder)
    left = session.events(session.runs(QUESTIONS, "s2t", MethodSettings(DECODE, SELECT)), 8)
    next(left)  # its first steps
    runtime = session.streams.runtime
    assert runtime.live
    with session.streams.lock:  # collected in the midst of somebody's step
        left.close()  # type: ignore[attr-defined]
    others = session.stream(QUESTIONS, "greedy", DECODE)
    next(others)
    assert len({row.key[0] for row in runtime.live}) == 1, "what nobody reads is decoded on"  # type: ignore[index]
    others.close()  # type: ignore[attr-defined]
    assert tokens(session.stream(QUESTIONS, "greedy", DECODE)) == alone["greedy"]
    assert not runtime.live and not runtime.queue and not any(backend.waiting for backend in runtime.backends.values())
    for backend in session.backends.values():
        assert "extents" in vars(backend)
        assert free_slots(backend.extents) == backend.extents.slots // 64 * 64  # type: ignore[attr-defined]


def test_all_samples_of_a_vote_count_as_sequences(folder: Path, alone: Any) -> None:
    session = fresh(folder)
    runtime, step, rows = session.streams.runtime, session.streams.step, []

    def watched() -> None:
        step()
        rows.append(sum(row.parent is not None for row in runtime.live))

    session.streams.step = watched  # type: ignore[method-assign]
    assert tokens(session.stream(QUESTIONS, "maj@3", replace(DECODE, max_batch=6))) == alone["maj@3"]
    assert max(rows) == 6


def test_results_that_others_stepped_for_are_not_lost(folder: Path, alone: Any) -> None:
    """All runs of a stream may end while another one steps, between its reading and its looking for more."""
    session = fresh(folder)
    streams = session.streams
    real = streams.fill
    met: list[int] = []

    def fill(stream: Any, runs: Any, rows: int) -> bool:
        if stream.live and not met:
            met.append(1)
            list(session.stream(["w9"] * 3, "s2t", DECODE, SELECT))  # somebody else, who takes longer
            met.append(len(stream.live))
        return real(stream, runs, rows)

    streams.fill = fill  # type: ignore[method-assign]
    assert tokens(session.stream(QUESTIONS[:2], "greedy", DECODE)) == {i: alone["greedy"][i] for i in (0, 1)}
    assert met[1] == 0, "the case was not met"


def test_the_steps_of_an_answer_come_as_they_are_decided(folder: Path, alone: Any) -> None:
    session = fresh(folder)

    async def read(question: str, method: str) -> tuple[int, ...]:
        return tuple([step.token async for step in session.stream_steps(question, method, settings)])

    async def all_at_once() -> list[tuple[int, ...]]:
        return await asyncio.gather(*(read(q, m) for m in ("greedy", "s2t-local") for q in QUESTIONS[:2]))

    settings = MethodSettings(DECODE, SELECT)
    assert asyncio.run(all_at_once()) == [alone[m][i] for m in ("greedy", "s2t-local") for i in (0, 1)]


@pytest.mark.parametrize("leaving", ["cancelled", "cancelled before it fails", "broken off", "loop ends"])
def test_a_reader_of_steps_who_leaves_takes_the_answer_along(
    folder: Path, leaving: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, began, step = fresh(folder), Event(), Runtime.step
    complaints: list[Any] = []

    def slow(self: Runtime) -> Any:
        began.set()
        time.sleep(0.05)
        if leaving == "cancelled before it fails":
            self.cancel(self.queue[0].key)
            raise MemoryError("nobody is there to be told")
        return step(self)

    async def read() -> None:
        async for _ in session.stream_steps(QUESTIONS[0], "greedy", MethodSettings(DecodeConfig(max_new_tokens=200))):
            if leaving == "broken off":
                return

    async def leave() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        reading = asyncio.create_task(read())
        await asyncio.to_thread(began.wait)
        if leaving == "loop ends":
            return
        if leaving.startswith("cancelled"):
            reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading

    monkeypatch.setattr(Runtime, "step", slow)
    asyncio.run(leave())
    session.streams.sweep()
    assert not session.streams.runtime.busy and not complaints


@pytest.mark.parametrize("ids", [[3, 64], [-1, 3]])
def test_ids_outside_the_vocabulary_are_refused_before_others_meet_them(folder: Path, ids: list[int]) -> None:
    session = fresh(folder)
    with pytest.raises(S2TError, match="outside the SLM's vocabulary"):
        list(session.stream([ids], "greedy", DECODE))
