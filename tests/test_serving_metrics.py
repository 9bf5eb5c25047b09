"""What a server tells Prometheus is what happened."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from select_to_think.config import DecodeConfig, MethodSettings
from select_to_think.contexts.memory import Extents
from select_to_think.contexts.protocol import Ask, Backend, Context
from select_to_think.evaluation.items import load_pair_split
from select_to_think.runs import Failed, Finished
from select_to_think.serving.access import Visit
from select_to_think.serving.engine import Engine
from select_to_think.serving.errors import ClientGone, RequestError
from select_to_think.serving.metrics import Metrics, Numbers, TimedBackend, Visits
from select_to_think.serving.wanted import Ended, Job, Wanted, Written
from select_to_think.session import Session
from select_to_think.structures import Counts, Extend, Generation, ModelUnavailable, Observation, S2TError, StepRecord


def empty() -> Metrics:
    return Metrics({}, lambda: {"rows": 0, "queue": 0})


def job_of(method: str, question: str | None = "", **fields: Any) -> Job:
    return Job(Wanted(method, MethodSettings(), [], question), cast(Any, None), 0, 0, **fields)


def test_a_prompt_that_is_scored_is_no_answer() -> None:
    metrics = empty()
    counts = Counts(slm_tokens_processed=3)
    metrics.ended(job_of("llm", question=None), Finished(1, Generation((5, 5, 6), "length", (), counts)))
    found = values(metrics)
    assert found["s2t_tokens_processed_total{model=slm}"] == 3
    assert not any(value for name, value in found.items() if name.startswith(("s2t_answers_total", "s2t_tokens_gen")))


def test_rows_that_wait_for_a_server_leave_their_places_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Session.load(), max_rows=2)
    monkeypatch.setattr(engine.streams, "away", lambda stream, most: 1)
    monkeypatch.setattr(engine.streams, "add", lambda stream, number, run: stream.live.update({number: 1}))
    one: Any = SimpleNamespace(copies=0)
    engine.waiting.extend(Job(Wanted("greedy", MethodSettings(), []), one, 0, 0) for _ in range(5))
    engine.take_in()
    assert (len(engine.live), len(engine.waiting)) == (3, 2)


@pytest.mark.parametrize(("copies", "begun"), [([0, 3, 0], 2), ([0, 4, 0], 1), ([9, 0], 1)])
def test_a_vote_takes_a_row_for_each_sample(copies: list[int], begun: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits until there is room for all, and so do those behind it; where nothing runs, any begins."""
    engine = Engine(Session.load(), max_rows=4)
    monkeypatch.setattr(engine.streams, "add", lambda stream, number, run: stream.live.update({number: run.copies}))
    runs: Any = [SimpleNamespace(copies=each) for each in copies]
    engine.waiting.extend(Job(Wanted("maj@4", MethodSettings(), []), run, 0, 0) for run in runs)
    engine.take_in()
    assert len(engine.live) == begun


def test_what_the_full_queue_refuses_is_counted() -> None:
    engine = Engine(Session.load(), max_rows=1, max_queue=1)
    engine.queue([job_of("greedy")])
    with pytest.raises(RequestError, match="1 answers wait already"):
        engine.queue([job_of("greedy"), job_of("greedy")])
    found = values(engine.counted)
    assert [found[name] for name in found if name.startswith("s2t_answers_total") and "refused" in name] == [2]


def test_what_was_written_is_remembered_no_longer_than_it_is_told() -> None:
    """Also where nobody asks."""
    engine = Engine(Session.load())
    engine.written.extend([(time.monotonic() - 60, 7), (time.monotonic(), 5)])
    assert engine.state()["tokens_per_second"] == 1 and len(engine.written) == 2
    engine.hand_out()
    assert [tokens for _, tokens in engine.written] == [5]


def values(metrics: Numbers, others: Sequence[Metric] = ()) -> dict[str, float]:
    """Every sample as Prometheus would read it: `name{label=value,...}` -> number."""
    text, content_type = metrics.text("text/plain", others)
    assert content_type.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_the_numbers_are_those_of_the_answers() -> None:
    session = Session.load()
    session.backend("slm"), session.backend("llm")
    engine = Engine(session)
    metrics, distant = engine.counted, engine.distant
    questions = [item.question for item in load_pair_split("validation", limit_per_domain=1)]
    results: list[Ended] = []
    during: dict[str, float] = {}

    def wanted(questions: list[str], longest: int) -> list[Wanted]:
        settings = MethodSettings(DecodeConfig(max_new_tokens=longest))
        prompts = [session.prompt(question, longest, with_llm=True) for question in questions]
        return [Wanted("s2t", settings, *each, streamed=True) for each in zip(prompts, questions, strict=True)]

    async def go() -> None:
        nonlocal during
        distant.start()
        await distant.connecting
        client, leaver = (
            distant.take(wanted(questions, 40)),
            distant.take(wanted(["How many keys does Ida have?"], 400)),
        )
        while len(engine.waiting) < 4:
            await asyncio.sleep(0.01)
            engine.hear()
        assert values(metrics)["s2t_queue"] == 4
        engine.start()
        with pytest.raises(ClientGone):
            async for news in leaver.events(asyncio.get_running_loop().time() + 60):
                assert all(isinstance(event, Written) for _, event in news)
                during = values(metrics)
                leaver.leave()
        async for news in client.events(asyncio.get_running_loop().time() + 60):
            results.extend(event for _, event in news if isinstance(event, Ended))
        await distant.stop()

    asyncio.run(go())
    after = values(metrics)
    tokens = sum(result.tokens for result in results)
    assert len(results) == len(questions) == 3
    assert 1 <= during["s2t_rows"] <= 4 and after["s2t_rows"] == after["s2t_queue"] == 0
    assert during["s2t_kv_slots_used{model=slm}"] >= 64 and after["s2t_kv_slots_used{model=slm}"] == 0
    assert after["s2t_kv_slots{model=slm}"] == cast(Any, session.backends["slm"]).extents.slots > 0
    assert after["s2t_decoding_steps_total{method=s2t}"] > tokens
    assert after["s2t_triggered_steps_total{method=s2t}"] >= sum(result.triggered for result in results) > 0
    assert after["s2t_flips_total{method=s2t}"] >= sum(result.flips for result in results) > 0
    assert sum(after.get(f"s2t_answers_total{{method=s2t,outcome={o}}}", 0) for o in ("stop", "length")) == 3
    assert after["s2t_answers_total{method=s2t,outcome=cancelled}"] == 1
    assert after["s2t_time_to_first_token_seconds_count{method=s2t}"] == after["s2t_queue_seconds_count"] == 4
    assert after["s2t_time_per_output_token_seconds_count{method=s2t}"] == 3
    llm = session.backends["llm"]
    assert after["s2t_forwards_total{model=llm}"] == llm.forwards == after["s2t_llm_call_seconds_count"] > 0
    assert after["s2t_llm_call_seconds_sum"] > 0 and after["s2t_llm_call_failures_total"] == 0
    assert after["s2t_runtime_step_seconds_count"] >= after["s2t_forwards_total{model=slm}"] - llm.forwards
    for model in ("slm", "llm"):
        processed = sum(getattr(result.counts, f"{model}_tokens_processed") for result in results)
        assert after[f"s2t_tokens_processed_total{{model={model}}}"] == processed > 0
    assert sum(after[f"s2t_tokens_generated_total{{model={model}}}"] for model in ("slm", "llm")) == tokens


def test_what_was_refused_or_failed_is_counted() -> None:
    metrics, event, job = empty(), Failed(1, S2TError("no")), job_of("greedy")
    metrics.refused(job)
    metrics.ended(job, event)
    found = values(metrics)
    assert found["s2t_answers_total{method=greedy,outcome=refused}"] == 1
    assert found["s2t_answers_total{method=greedy,outcome=failed}"] == 1


def test_triggered_steps_flips_and_times_between_tokens() -> None:
    metrics, job = empty(), job_of("s2t", arrived=time.monotonic() - 0.5)
    fired = StepRecord(5, 0.0, 5, fired=True)
    steps = (StepRecord(5, 0.0, 5), fired, StepRecord(6, 0.0, 5, fired=True))
    metrics.committed(job, steps[:1])
    metrics.committed(job, steps[1:])
    time.sleep(0.1)
    metrics.ended(job, Finished(1, Generation((5, 5, 6), "stop", steps, Counts(llm_tokens_generated=2))))
    found = values(metrics)
    names = ("decoding_steps", "triggered_steps", "flips")
    assert [found[f"s2t_{name}_total{{method=s2t}}"] for name in names] == [3, 2, 1]
    assert 0.5 <= found["s2t_time_to_first_token_seconds_sum{method=s2t}"] < 0.6
    assert 0.05 <= found["s2t_time_per_output_token_seconds_sum{method=s2t}"] < 0.1
    assert found["s2t_tokens_generated_total{model=slm}"] == 1


class Model:
    """A backend that answers one request a step, the first with a failure."""

    forwards = 7

    def __init__(self, remote: bool) -> None:
        self.remote, self.waiting = remote, list[Ask]()

    def submit(self, ask: Ask) -> None:
        self.waiting.append(ask)

    seconds = 0.1  # of the first call

    def step(self) -> list[Ask]:
        time.sleep(self.seconds)
        self.seconds = 0.0
        ask = self.waiting.pop(0)
        ask.answer = ModelUnavailable("gone") if ask.request.tokens == (0,) else Observation()  # type: ignore[union-attr]
        return [ask]


@pytest.mark.parametrize("remote", [False, True])
def test_calls_of_the_llm_and_their_failures_are_counted(remote: bool) -> None:
    metrics, model = empty(), Model(remote)
    timed = TimedBackend(cast(Backend, model), metrics.called)
    asks = [Ask(Context(0, 64), Extend("llm", (token,))) for token in range(3)]
    for ask in asks:
        timed.submit(ask)
    assert timed.step() == asks[:1] and timed.step() == asks[1:2] and timed.forwards == 7
    model.waiting.clear()  # whoever asked the third has left
    timed.submit(asks[0])
    assert timed.step() == asks[:1] and not timed.sent
    found = values(metrics)
    assert found["s2t_llm_call_failures_total"] == 2 and found["s2t_llm_call_seconds_count"] == 3
    longest = 0.2 if remote else 0.1  # a request to another server is under way from when it is sent
    assert longest <= found["s2t_llm_call_seconds_sum"] < longest + 0.1


def test_a_timed_backend_is_called_as_a_backend_is() -> None:
    for name in ("submit", "step"):
        own, wanted = (inspect.signature(getattr(kind, name)) for kind in (TimedBackend, Backend))
        assert own == wanted


def test_requests_to_unknown_paths_make_no_labels_of_their_own() -> None:
    visits = Visits()
    for number in range(50):
        visits.visited(Visit("id", "GET", f"/{number}", 404, 0.1, True, "", {}))
    visits.visited(Visit("id", "GET", "/v1/models", 200, 0.1, True, "/v1/models", {}))
    found = values(visits, empty().collect())
    assert found["s2t_requests_total{route=other,status=404}"] == 50
    assert found["s2t_requests_total{route=/v1/models,status=200}"] == 1
    assert sum(name.startswith("s2t_requests_total") for name in found) == 2
    assert found["process_resident_memory_bytes"] > 1 << 20


def test_openmetrics_is_spoken_to_those_who_ask() -> None:
    text, content_type = empty().text("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text") and text.endswith(b"# EOF\n")


@pytest.mark.parametrize("slots", [0, 63, 64, 1000, 4096])
def test_free_slots_are_counted(slots: int) -> None:
    extents = Extents(slots)
    assert extents.available == extents.slots == slots // 64 * 64
    taken = []
    while (found := extents.take(100)) is not None:
        taken.append(found)
        assert extents.available == extents.slots - sum(size for _, size in taken)
    for start, size in taken:
        extents.give(start, size)
    assert extents.available == extents.slots
