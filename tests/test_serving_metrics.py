"""What a server tells Prometheus is what happened."""

from __future__ import annotations

from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route

from select_to_think.config import DecodeConfig, MethodSettings
from select_to_think.contexts.memory import Extents
from select_to_think.contexts.protocol import Ask, Backend, Context
from select_to_think.evaluation.items import load_pair_split
from select_to_think.runtime import Committed, Finished
from select_to_think.serving.access import Visit
from select_to_think.serving.metrics import Metrics, TimedBackend
from select_to_think.session import Session
from select_to_think.structures import Counts, Extend, ModelUnavailable, StepRecord


def values(metrics: Metrics) -> dict[str, float]:
    """Every sample as Prometheus would read it: `name{label=value,...}` -> number."""
    text, content_type = metrics.text("text/plain")
    assert content_type.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_the_numbers_are_those_of_the_answers() -> None:
    session, metrics = Session.load(), Metrics()
    questions = [item.question for item in load_pair_split("validation", limit_per_domain=1)]
    session.backend("slm"), session.backend("llm")
    metrics.time_calls(session.backends)
    metrics.time_calls(session.backends)  # of a backend that is timed already
    metrics.watch(session.streams.runtime)
    settings = MethodSettings(DecodeConfig(max_new_tokens=40))
    results = []
    during: dict[str, float] = {}
    for _, event in session.events(session.runs(questions, "s2t", settings), 8):
        if isinstance(event, Committed):
            metrics.committed("s2t", event.steps)
            during = during or values(metrics)
        elif isinstance(event, Finished):
            result = event.result
            metrics.ended("s2t", result.finish_reason, len(result.tokens), result.counts, 0.39)
            results.append(result)
    after = values(metrics)
    tokens = sum(len(result.tokens) for result in results)
    llm = session.backends["llm"]
    assert during["s2t_rows"] == len(questions) == 3 and after["s2t_rows"] == after["s2t_queue"] == 0
    assert during["s2t_kv_slots_used{model=slm}"] >= 3 * 64 and after["s2t_kv_slots_used{model=slm}"] == 0
    assert after["s2t_kv_slots{model=slm}"] == cast(Any, session.backends["slm"]).extents.slots > 0
    assert after["s2t_decoding_steps_total{method=s2t}"] == tokens
    assert after["s2t_triggered_steps_total{method=s2t}"] == sum(result.fired_count for result in results) > 0
    assert after["s2t_flips_total{method=s2t}"] == sum(result.flip_count for result in results) > 0
    assert sum(after.get(f"s2t_answers_total{{method=s2t,outcome={o}}}", 0) for o in ("stop", "length")) == 3
    assert after["s2t_time_per_output_token_seconds_count{method=s2t}"] == 3
    assert after["s2t_forwards_total{model=llm}"] == llm.forwards == after["s2t_llm_call_seconds_count"] > 0
    assert after["s2t_llm_call_seconds_sum"] > 0 and after["s2t_llm_call_failures_total"] == 0
    assert after["s2t_runtime_steps_total"] == session.streams.runtime.steps >= after["s2t_forwards_total{model=slm}"]
    for model in ("slm", "llm"):
        processed = sum(getattr(result.counts, f"{model}_tokens_processed") for result in results)
        assert after[f"s2t_tokens_processed_total{{model={model}}}"] == processed > 0
    generated = [after[f"s2t_tokens_generated_total{{model={model}}}"] for model in ("slm", "llm")]
    assert sum(generated) == tokens


def test_waiting_runs_are_the_queue() -> None:
    session, metrics = Session.load(), Metrics()
    runtime = session.streams.runtime
    metrics.watch(runtime)
    for key, run in session.runs(["How many?"] * 2, "greedy", MethodSettings()):
        runtime.add(key, run)
    assert values(metrics)["s2t_queue"] == 2
    assert "s2t_forwards_total{model=llm}" not in values(metrics)


def test_time_to_the_first_token_and_between_tokens() -> None:
    metrics = Metrics()
    metrics.began("greedy", 0.2)
    metrics.ended("greedy", "cancelled", 5, Counts(llm_tokens_generated=2), 0.4)
    metrics.ended("greedy", "failed", 0, Counts(), 0.0)
    found = values(metrics)
    assert found["s2t_time_to_first_token_seconds_sum{method=greedy}"] == pytest.approx(0.2)
    assert found["s2t_time_per_output_token_seconds_sum{method=greedy}"] == pytest.approx(0.1)
    assert found["s2t_time_per_output_token_seconds_count{method=greedy}"] == 1
    assert found["s2t_answers_total{method=greedy,outcome=failed}"] == 1
    assert found["s2t_tokens_generated_total{model=slm}"] == 3


def test_failures_of_the_llm_are_counted() -> None:
    class Deaf:
        forwards = 7

        def step(self) -> list[Ask]:
            request = Extend("llm", (1,))
            asks = [Ask(Context(0, 64), request, answer=ModelUnavailable("gone")), Ask(Context(0, 64), request)]
            return asks

    metrics = Metrics()
    timed: dict[str, Backend] = {"slm": cast(Backend, Deaf()), "llm": cast(Backend, Deaf())}
    metrics.time_calls(timed)
    assert isinstance(timed["llm"], TimedBackend) and not isinstance(timed["slm"], TimedBackend)
    assert len(timed["llm"].step()) == 2 and timed["llm"].forwards == 7
    assert values(metrics)["s2t_llm_call_failures_total"] == 1 and values(metrics)["s2t_llm_call_seconds_count"] == 1


def test_requests_to_unknown_paths_make_no_labels_of_their_own() -> None:
    metrics = Metrics()
    route = Route("/v1/models", lambda request: None)
    for number in range(50):
        metrics.visited(Visit("id", "GET", f"/{number}", 404, 0.1, True, "", {}))
    metrics.visited(Visit("id", "GET", "/v1/models", 200, 0.1, True, route.path, {}))
    found = values(metrics)
    assert found["s2t_requests_total{route=other,status=404}"] == 50
    assert found["s2t_requests_total{route=/v1/models,status=200}"] == 1
    assert sum(name.startswith("s2t_requests_total") for name in found) == 2
    assert found["process_resident_memory_bytes"] > 1 << 20


def test_triggered_steps_and_flips() -> None:
    metrics = Metrics()
    plain, fired = StepRecord(5, 0.0, 5), StepRecord(5, 0.0, 5, fired=True)
    metrics.committed("s2t", [plain, fired, StepRecord(6, 0.0, 5, fired=True)])
    found = values(metrics)
    names = ("decoding_steps", "triggered_steps", "flips")
    assert [found[f"s2t_{name}_total{{method=s2t}}"] for name in names] == [3, 2, 1]


def test_openmetrics_is_spoken_to_those_who_ask() -> None:
    text, content_type = Metrics().text("application/openmetrics-text; version=1.0.0")
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
