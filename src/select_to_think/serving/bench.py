"""`s2t bench serve`: what the way over HTTP costs, and whether a server keeps its promises under load.

The server and the client run in processes of their own; this one decodes the same questions offline. What is compared
is measured in one run, in turn, and only ratios are comparable between machines.

Non-goals: quality, and other people's servers.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import accumulate, pairwise
from math import ceil
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np

from select_to_think.config import RuntimeConfig
from select_to_think.files import read_json, write_json_atomic
from select_to_think.pairs import bundled_model
from select_to_think.serving.load import Answer, Job, run_client
from select_to_think.serving.settings import BenchServeConfig
from select_to_think.serving.trial import CHAT, COMPLETIONS, Bench, server, whole
from select_to_think.session import Session
from select_to_think.structures import Generation, Progress, S2TError

SAMPLING = {"temperature": 0.7, "top_p": 0.95, "seed": 0}  # of the methods that draw
LEAVE_AFTER = 3  # chunks that a vanishing client reads
READERS, READ_TOKENS, LEAD_SECONDS = 4, 1000, 1.0  # streams that are open as a long prompt comes

Findings = tuple[list[dict[str, Any]], dict[str, Any]]  # rows, and the numbers behind them


def row(part: str, measure: str, value: float, target: float, *, at_least: bool) -> dict[str, Any]:
    """One number beside what is wanted of it."""
    met = value >= target if at_least else value <= target
    return {"part": part, "measure": measure, "value": value, "target": target, "met": met}


def seconds_of(found: Sequence[Answer]) -> float:
    """From the first request to the end of the last answer."""
    return max(answer.ended for answer in found) - min(answer.sent for answer in found)


def rate(found: Sequence[Answer]) -> float:
    """Tokens a second."""
    return sum(answer.tokens for answer in found) / seconds_of(found)


def timed(work: Callable[[], list[Generation]]) -> tuple[list[Generation], float]:
    """What work gives, and its seconds."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def p95(found: Sequence[Answer]) -> float:
    """The time to the first token that at most one in twenty answers exceeds."""
    return float(np.quantile([answer.first_token_seconds for answer in found], 0.95, method="higher"))


def throughput(bench: Bench) -> Findings:
    """Tokens a second: many streams against one, and the server against the offline runtime, round by round; for
    comparison the offline runtime with one sequence at a time.

    Beside them the processor's microseconds a token, which other programs on the machine change less.
    """
    config, rates, costs = bench.config, [], []
    texts, few = bench.texts(config.requests), max(1, config.requests // 8)
    bench.ask(config.streams, streams=config.streams), bench.offline(texts[: config.streams], config.method)  # warm
    for _ in range(config.rounds):
        one, before = rate(bench.ask(few)), bench.server.cpu_seconds
        many = bench.ask(config.requests, streams=config.streams)
        spent, own = bench.server.cpu_seconds - before, time.process_time()
        offline, seconds = timed(lambda: bench.offline(texts, config.method))
        own = time.process_time() - own
        if wrong := [a.number for a, b in zip(many, offline, strict=True) if a.text != b.text]:
            raise S2TError(f"{len(wrong)} answers differ from the offline ones, the first to question {wrong[0]}")
        alone, longer = timed(lambda: bench.offline(texts[:few], config.method, max_batch=1))
        written, apart = (sum(len(answer.tokens) for answer in found) for found in (offline, alone))
        rates.append({"one": one, "many": rate(many), "offline": written / seconds, "offline_one": apart / longer})
        served = sum(answer.tokens for answer in many)
        costs.append({"server": 1e6 * spent / served, "offline": 1e6 * own / written})
    to_one, to_offline = (median(each["many"] / each[name] for each in rates) for name in ("one", "offline"))
    rows = [
        row("throughput", "tokens/s at many streams / at one", to_one, 8, at_least=True),
        row("throughput", "tokens/s of server / offline", to_offline, 0.85, at_least=True),
    ]
    return rows, {"tokens_per_second": rates, "cpu_microseconds_per_token": costs}


def latency(bench: Bench) -> Findings:
    """Time to the first token at half the rate that saturates the server, against that without load."""
    config, rounds, draw = bench.config, [], Random(0)
    for _ in range(config.rounds):
        busy = bench.ask(config.requests, streams=config.streams)
        per_second = config.requests / seconds_of(busy) / 2
        arrivals = list(accumulate(draw.expovariate(per_second) for _ in range(config.requests)))
        unloaded, half = (p95(bench.ask(config.requests, starts=starts)) for starts in ((), arrivals))
        rounds.append({"requests_per_second": per_second, "unloaded_p95_seconds": unloaded, "half_p95_seconds": half})
    ratio = median(each["half_p95_seconds"] / each["unloaded_p95_seconds"] for each in rounds)
    return [row("latency", "p95 of first token, half load / none", ratio, 3, at_least=False)], {"rounds": rounds}


def soak(bench: Bench) -> Findings:
    """Many requests of all methods and forms: memory, lost answers, and answers that are not the offline ones."""
    config = bench.config
    methods = sorted({entry["s2t"]["method"] for entry in bench.server.get("/v1/models")["data"]})
    kinds = [(method, form) for form in ("stream", "whole", "ids") for method in methods]
    asked = [(*kinds[i % len(kinds)], i // len(kinds) % len(bench.questions)) for i in range(config.soak_requests)]
    distinct = min(len(bench.questions), ceil(config.soak_requests / len(kinds)))
    texts, ids = bench.questions[:distinct], {}
    expected: dict[tuple[str, str, int], str] = {}
    for method in methods:
        ids[method] = [bench.ids(method, question) for question in texts]
        for form, questions in (("text", texts), ("ids", ids[method])):
            found = bench.offline(questions, method, **SAMPLING)
            expected |= {(method, form, number): answer.text for number, answer in enumerate(found)}
    bodies = [
        bench.body(question, **SAMPLING, **form_of(form, method, ids[method][question]))
        for method, form, question in asked
    ]
    paths = [COMPLETIONS if form == "ids" else CHAT for _, form, _ in asked]
    first, answers, memory = max(1, config.soak_requests // 10), [], []
    for part in (slice(None, first), slice(first, None)):
        answers += run_client(Job(bench.server.url, paths[part], bodies[part], config.streams))
        memory.append(bench.server.memory_mib)
    lost = [answer.error for answer in answers if answer.error or answer.status != 200]
    wrong = [
        (method, form, number)
        for answer, (method, form, number) in zip(answers, asked, strict=True)
        if answer.text != expected[method, "ids" if form == "ids" else "text", number]
    ]
    return [
        row("soak", "memory at the end / after a tenth", memory[1] / memory[0], 1.05, at_least=False),
        row("soak", "answers lost", len(lost), 0, at_least=False),
        row("soak", "answers that differ from offline", len(wrong), 0, at_least=False),
    ], {"methods": methods, "memory_mib": memory, "wrong": wrong[:10], "lost": lost[:10]}


def form_of(form: str, method: str, ids: Sequence[int]) -> dict[str, Any]:
    """What a request of the soak has of its own."""
    fields: dict[str, Any] = {"s2t": {"method": method}}
    if form == "ids":
        fields |= {"prompt": ids, "messages": None}
    if form == "whole":
        fields |= {"stream": False, "stream_options": None}
    return fields


def vanish(bench: Bench) -> Findings:
    """Clients who hang up in mid-stream leave nothing behind."""
    bodies = [bench.body(number) for number in range(bench.config.clients)]
    left = run_client(Job(bench.server.url, [CHAT], bodies, bench.config.streams, leave_after=LEAVE_AFTER))
    state = bench.server.settled()
    after = bench.ask(bench.config.streams, streams=bench.config.streams)
    offline = bench.offline(bench.texts(len(after)), bench.config.method)
    wrong = sum(answer.text != other.text for answer, other in zip(after, offline, strict=True))
    return [
        row("vanish", "rows and queue afterwards", state["rows"] + state["queue"], 0, at_least=False),
        row("vanish", "wrong answers afterwards", wrong, 0, at_least=False),
    ], {"vanished": sum(1 for answer in left if answer.finish_reason is None and answer.times), "state": state}


def long_prompt(bench: Bench) -> Findings:
    """A long prompt, while others read: between two of their tokens stands at most one piece of it.

    The bundled SLM has rotary positions and a short context; a copy of it that claims a longer one computes the same.
    """
    session, length = bench.session, bench.config.long_prompt_tokens
    endless = {str(token): -100 for token in session.stop_ids}
    words = [token for question in bench.questions for token in session.prompt(question, 1, with_llm=False)]
    with tempfile.TemporaryDirectory() as folder:
        slm, draw = Path(folder) / "slm", Random(0)
        shutil.copytree(bundled_model(session.config.pair, "slm"), slm)
        about = read_json(slm / "config.json", remedy="name a bundled pair")
        write_json_atomic(slm / "config.json", {**about, "max_position_embeddings": 2 * length + READ_TOKENS})
        with server("--slm", str(slm), "--method", "greedy") as other:

            def ask(*wanted: tuple[int, int, float]) -> list[Answer]:
                """Answers to (prompt tokens, answer tokens, start) each."""
                common = {"model": other.model, "stream": True, "logprobs": 0, "logit_bias": endless}
                bodies = [{**common, "prompt": draw.choices(words, k=k), "max_tokens": most} for k, most, _ in wanted]
                return whole(run_client(Job(other.url, [COMPLETIONS], bodies, starts=[start for *_, start in wanted])))

            ask((length, 1, 0.0))  # warm
            (alone,) = ask((length, 1, 0.0))
            *readers, late = ask(*[(50, READ_TOKENS, 0.0)] * READERS, (length, 1, LEAD_SECONDS))
    pieces = ceil(length / RuntimeConfig.max_step_tokens)
    meanwhile = [[at for at in reader.times if late.sent < at < late.times[0]] for reader in readers]
    gaps = [(before, after) for reader in readers for before, after in pairwise(reader.times)]
    return [
        row("long-prompt", "tokens of each other stream meanwhile", min(map(len, meanwhile)), pieces - 1, at_least=True)
    ], {
        "prompt_tokens": length,
        "pieces": pieces,
        "prefill_seconds": alone.first_token_seconds,
        "prefill_seconds_meanwhile": late.first_token_seconds,
        "usual_gap_seconds": median(after - before for before, after in gaps),
        "longest_gap_seconds": max(b - a for a, b in gaps if b > late.sent and a < late.times[0]),
    }


def bench_serve(
    config: BenchServeConfig, session: Session, questions: Sequence[str], progress: Progress | None = None
) -> dict[str, Any]:
    """All parts that were asked for: `rows` with a number, what is wanted of it and whether it is met; `details`.

    Raises:
        S2TError: an unknown part, or a server that fails.
    """
    rows: list[dict[str, Any]] = []
    details: dict[str, Any] = {}
    chosen = config.chosen
    with server("--pair", session.config.pair, "--max-queue", str(config.clients + config.requests)) as under_load:
        bench = Bench(config, session, under_load, questions)
        for done, part in enumerate(chosen, 1):
            found, details[part] = MEASURES[part](bench)
            rows += found
            if progress:
                progress(done, len(chosen))
    return {"schema": 1, "rows": rows, "details": details, "config": asdict(config)}


MEASURES: dict[str, Callable[[Bench], Findings]] = {
    "throughput": throughput,
    "latency": latency,
    "soak": soak,
    "vanish": vanish,
    "long-prompt": long_prompt,
}
