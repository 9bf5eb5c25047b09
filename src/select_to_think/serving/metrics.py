"""What a server tells Prometheus. Names and units follow its rules: seconds, totals, one label a dimension.

The engine tells an `Observer` what happens to answers; what can be read at any time (rows, queue, key-value memory,
forwards) is read from the runtime when somebody asks. Ratios such as the trigger rate are left to the one who asks:
both of their counters are here.

Non-goals: the numbers that a request's own answer carries (`usage`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from functools import cache
from typing import Any, Protocol, cast

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from select_to_think.contexts.protocol import Ask, Backend
from select_to_think.runtime import Runtime
from select_to_think.serving.access import Visit
from select_to_think.structures import Counts, StepRecord

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Observer(Protocol):
    """What an engine tells as answers come about. Cheap: it is called in the thread that steps the runtime."""

    def began(self, method: str, seconds: float) -> None:
        """An answer has its first token, `seconds` after it was asked for."""
        ...

    def committed(self, method: str, steps: Sequence[StepRecord]) -> None:
        """Steps of an answer are final."""
        ...

    def ended(self, method: str, outcome: str, tokens: int, counts: Counts, seconds: float) -> None:
        """An answer of `tokens` tokens has ended, `seconds` after its first one.

        `outcome`: its finish reason, or why there is none (cancelled, failed ...).
        """
        ...


class Metrics:
    """All that is counted, in a registry of its own; an `Observer`."""

    def __init__(self) -> None:
        """Everything is zero."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"s2t_{name}", help, labels, registry=self.registry)

        def histogram(name: str, help: str, *labels: str) -> Histogram:
            return Histogram(f"s2t_{name}_seconds", help, labels, registry=self.registry, buckets=SECONDS)

        self.requests = counter("requests", "HTTP requests that were answered.", "route", "status")
        self.request_seconds = histogram("request", "From a request's arrival to the end of its answer.", "route")
        self.answers = counter("answers", "Generations that ended, by how they did.", "method", "outcome")
        self.first_token = histogram("time_to_first_token", "From a request to its first token.", "method")
        self.per_token = histogram("time_per_output_token", "Between the tokens of an answer, its mean.", "method")
        self.steps = counter("decoding_steps", "Tokens that were decided.", "method")
        self.triggered = counter("triggered_steps", "Steps at which the trigger fired.", "method")
        self.flips = counter("flips", "Triggered steps whose choice was not the SLM's own.", "method")
        self.processed = counter("tokens_processed", "Tokens fed through a model.", "model")
        self.generated = counter("tokens_generated", "Tokens of answers, by the model that wrote them.", "model")
        self.llm_seconds = histogram("llm_call", "Of one call of the LLM, which may answer many rows.")
        self.llm_failures = counter("llm_call_failures", "Requests to the LLM that it did not answer.")
        self.of_method = cache(self.children)

    def children(self, method: str) -> tuple[Counter, Counter, Counter]:
        """The counters of a method's steps, found once."""
        return self.steps.labels(method), self.triggered.labels(method), self.flips.labels(method)

    def began(self, method: str, seconds: float) -> None:
        self.first_token.labels(method).observe(seconds)

    def committed(self, method: str, steps: Sequence[StepRecord]) -> None:
        total, triggered, flips = self.of_method(method)
        total.inc(len(steps))
        if fired := sum(step.fired for step in steps):
            triggered.inc(fired)
            flips.inc(sum(step.flip for step in steps))

    def ended(self, method: str, outcome: str, tokens: int, counts: Counts, seconds: float) -> None:
        self.answers.labels(method, outcome).inc()
        if tokens > 1:
            self.per_token.labels(method).observe(seconds / (tokens - 1))
        self.processed.labels("slm").inc(counts.slm_tokens_processed)
        self.processed.labels("llm").inc(counts.llm_tokens_processed)
        self.generated.labels("slm").inc(max(0, tokens - counts.llm_tokens_generated))
        self.generated.labels("llm").inc(counts.llm_tokens_generated)

    def visited(self, visit: Visit) -> None:
        """Count a request; those to no route of ours count together."""
        route = visit.route or "other"
        self.requests.labels(route, str(visit.status)).inc()
        self.request_seconds.labels(route).observe(visit.seconds)

    def watch(self, runtime: Runtime) -> None:
        """Read this runtime's numbers whenever somebody asks."""
        self.registry.register(RuntimeNumbers(runtime))

    def time_calls(self, backends: MutableMapping[str, Backend]) -> None:
        """Time the calls of the LLM, if there is one by now and it is not timed yet."""
        backend = backends.get("llm")
        if backend is not None and not isinstance(backend, TimedBackend):
            backends["llm"] = cast(Backend, TimedBackend(backend, self.called))

    def called(self, seconds: float, failures: int) -> None:
        """One call of the LLM, and how many of the requests that it carried were not answered."""
        self.llm_seconds.observe(seconds)
        self.llm_failures.inc(failures)

    def text(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that an Accept header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class TimedBackend:
    """A backend whose steps are timed."""

    def __init__(self, backend: Backend, called: Callable[[float, int], None]) -> None:
        """`called` hears the seconds of each step that answered something, and how many requests failed in it."""
        self.backend, self.called = backend, called

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def step(self) -> list[Ask]:
        """As the backend does."""
        start = time.perf_counter()
        answered = self.backend.step()
        failures = sum(isinstance(ask.answer, Exception) for ask in answered)
        self.called(time.perf_counter() - start, failures)
        return answered


class RuntimeNumbers(Collector):
    """The present state of a runtime."""

    def __init__(self, runtime: Runtime) -> None:
        """Of `runtime`, whose backends may come later."""
        self.runtime = runtime

    def collect(self) -> Iterator[Metric]:
        """Gauges and counters as they are now."""
        runtime, backends = self.runtime, list(self.runtime.backends.items())
        yield GaugeMetricFamily("s2t_rows", "Sequences that are decoded now.", len(runtime.live))
        yield GaugeMetricFamily("s2t_queue", "Runs that wait for key-value memory.", len(runtime.queue))
        yield CounterMetricFamily("s2t_runtime_steps", "Steps of the runtime.", runtime.steps)
        forwards = CounterMetricFamily("s2t_forwards", "Forwards of the whole model, for many rows.", labels=["model"])
        slots = GaugeMetricFamily("s2t_kv_slots", "Tokens that the key-value memory holds.", labels=["model"])
        used = GaugeMetricFamily("s2t_kv_slots_used", "Of them, those that belong to a sequence.", labels=["model"])
        for name, backend in backends:
            forwards.add_metric([name], backend.forwards)
            if (extents := getattr(backend, "extents", None)) is not None:  # a model in process
                slots.add_metric([name], extents.slots)
                used.add_metric([name], extents.slots - extents.available)
        yield from (forwards, slots, used)
