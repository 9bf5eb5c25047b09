"""What a server tells Prometheus. Names and units follow its rules: seconds, totals, one label a dimension.

The engine tells what happens to answers; what can be read at any time (rows, queue, key-value memory,
forwards) is read from the runtime when somebody asks. Ratios such as the trigger rate are left to the one who asks:
both of their counters are here.

Non-goals: the numbers that a request's own answer carries (`usage`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from select_to_think.contexts.protocol import Ask, Backend
from select_to_think.runs import Failed, Finished
from select_to_think.serving.access import Visit
from select_to_think.serving.wanted import Job
from select_to_think.structures import Generation, StepRecord

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


@dataclass(frozen=True)
class Found(Collector):
    """Numbers that were collected."""

    metrics: Sequence[Metric]

    def collect(self) -> Sequence[Metric]:
        """As they are."""
        return self.metrics


class Numbers:
    """Counters and histograms in a registry of their own."""

    def __init__(self) -> None:
        """There are none."""
        self.registry = CollectorRegistry()

    def counter(self, name: str, help: str, *labels: str) -> Counter:
        """A new counter, at zero."""
        return Counter(f"s2t_{name}", help, labels, registry=self.registry)

    def histogram(self, name: str, help: str, *labels: str) -> Histogram:
        """A new histogram of seconds, empty."""
        return Histogram(f"s2t_{name}_seconds", help, labels, registry=self.registry, buckets=SECONDS)

    def collect(self) -> list[Metric]:
        """All of them as they are now."""
        return list(self.registry.collect())

    def text(self, accept: str, others: Sequence[Metric] = ()) -> tuple[bytes, str]:
        """All of them behind others, in the format that an Accept header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(Found([*others, *self.collect()])), content_type


class Visits(Numbers):
    """What is counted of requests."""

    def __init__(self) -> None:
        """Everything is zero."""
        super().__init__()
        self.requests = self.counter("requests", "HTTP requests that were answered.", "route", "status")
        self.request_seconds = self.histogram("request", "From a request's arrival to the end of its answer.", "route")

    def visited(self, visit: Visit) -> None:
        """Count a request; those to no route of ours count together."""
        route = visit.route or "other"
        self.requests.labels(route, str(visit.status)).inc()
        self.request_seconds.labels(route).observe(visit.seconds)


class Metrics(Numbers):
    """What is counted of answers, in the engine's thread, beside the present state of its models."""

    def __init__(self, backends: dict[str, Backend], state: Callable[[], Mapping[str, float]]) -> None:
        """Everything is zero. The LLM's calls are timed if it is among the backends by now."""
        super().__init__()
        ProcessCollector(registry=self.registry)
        self.registry.register(Present(backends, state))
        if "llm" in backends:
            backends["llm"] = cast(Backend, TimedBackend(backends["llm"], self.called))
        counter, histogram = self.counter, self.histogram
        self.answers = counter("answers", "Generations that ended, by how they did.", "method", "outcome")
        self.first_token = histogram("time_to_first_token", "From a request to its first token.", "method")
        self.per_token = histogram("time_per_output_token", "Between the tokens of an answer, its mean.", "method")
        self.steps = counter("decoding_steps", "Tokens that were decided.", "method")
        self.triggered = counter("triggered_steps", "Steps at which the trigger fired.", "method")
        self.flips = counter("flips", "Triggered steps whose choice was not the SLM's own.", "method")
        self.processed = counter("tokens_processed", "Tokens fed through a model.", "model")
        self.generated = counter("tokens_generated", "Tokens of answers, by the model that wrote them.", "model")
        self.llm_seconds = histogram(
            "llm_call", "Of one call of the LLM: a forward for many rows, or a request to a server."
        )
        self.llm_failures = counter("llm_call_failures", "Requests to the LLM that it did not answer.")
        self.queue_seconds = histogram("queue", "From an answer's arrival to its beginning.")
        self.step_seconds = histogram("runtime_step", "Of one step of the runtime.")
        self.of_method = cache(self.children)

    def children(self, method: str) -> tuple[Counter, Counter, Counter]:
        """The counters of a method's steps, found once."""
        return self.steps.labels(method), self.triggered.labels(method), self.flips.labels(method)

    def refused(self, job: Job) -> None:
        """It was not taken: the queue is full."""
        self.answers.labels(job.wanted.method, "refused").inc()

    def begun(self, job: Job) -> None:
        """It has left the queue."""
        self.queue_seconds.observe(time.monotonic() - job.arrived)

    def committed(self, job: Job, steps: Sequence[StepRecord]) -> None:
        """Steps of it are final."""
        if job.answered is None:
            job.answered = time.monotonic()
            self.first_token.labels(job.wanted.method).observe(job.answered - job.arrived)
        total, triggered, flips = self.of_method(job.wanted.method)
        total.inc(len(steps))
        if fired := sum(step.fired for step in steps):
            triggered.inc(fired)
            flips.inc(sum(step.flip for step in steps))

    def ended(self, job: Job, event: Finished | Failed | None) -> None:
        """It is over; without an event, because its client left."""
        method = job.wanted.method
        if not isinstance(event, Finished):
            self.answers.labels(method, "cancelled" if event is None else "failed").inc()
            return
        result: Generation = event.result
        tokens, counts = len(result.tokens), result.counts
        self.processed.labels("slm").inc(counts.slm_tokens_processed)
        self.processed.labels("llm").inc(counts.llm_tokens_processed)
        if job.wanted.question is None:  # a prompt was scored, nothing was written
            return
        self.answers.labels(method, result.finish_reason).inc()
        if job.answered is not None and tokens > 1:
            self.per_token.labels(method).observe((time.monotonic() - job.answered) / (tokens - 1))
        self.generated.labels("slm").inc(max(0, tokens - counts.llm_tokens_generated))
        self.generated.labels("llm").inc(counts.llm_tokens_generated)

    def called(self, seconds: float, failures: int) -> None:
        """One call of the LLM, and how many of the requests that it carried were not answered."""
        self.llm_seconds.observe(seconds)
        self.llm_failures.inc(failures)


class TimedBackend:
    """A backend whose calls are timed: forwards of a model in process, requests to one that is elsewhere."""

    def __init__(self, backend: Backend, called: Callable[[float, int], None]) -> None:
        """`called` hears the seconds of each call, and how many of the requests that it carried failed."""
        self.backend, self.called = backend, called
        self.sent: dict[Ask, float] = {}  # to a model elsewhere, since when

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def submit(self, ask: Ask) -> None:
        """As the backend does."""
        if self.backend.remote:
            self.sent[ask] = time.perf_counter()
        self.backend.submit(ask)

    def step(self) -> list[Ask]:
        """As the backend does."""
        start = time.perf_counter()
        answered = self.backend.step()
        now, failed = time.perf_counter(), [isinstance(ask.answer, Exception) for ask in answered]
        if not self.backend.remote:
            self.called(now - start, sum(failed))
            return answered
        for ask, failure in zip(answered, failed, strict=True):
            self.called(now - self.sent[ask], failure)
        self.sent = {ask: self.sent[ask] for ask in self.backend.waiting}
        return answered


@dataclass(eq=False)
class Present(Collector):
    """The present state of an engine and of its models."""

    backends: Mapping[str, Backend]
    state: Callable[[], Mapping[str, float]]

    def collect(self) -> Iterator[Metric]:
        """Gauges and counters as they are now."""
        state = self.state()
        yield GaugeMetricFamily("s2t_rows", "Sequences that are decoded now.", state["rows"])
        yield GaugeMetricFamily("s2t_queue", "Answers that wait for their turn.", state["queue"])
        forwards = CounterMetricFamily("s2t_forwards", "Forwards of the whole model, for many rows.", labels=["model"])
        slots = GaugeMetricFamily("s2t_kv_slots", "Tokens that the key-value memory holds.", labels=["model"])
        used = GaugeMetricFamily("s2t_kv_slots_used", "Of them, those that belong to a sequence.", labels=["model"])
        for name, backend in list(self.backends.items()):
            forwards.add_metric([name], backend.forwards)
            if (extents := getattr(backend, "extents", None)) is not None:  # a model in process
                slots.add_metric([name], extents.slots)
                used.add_metric([name], extents.slots - extents.available)
        yield from (forwards, slots, used)
