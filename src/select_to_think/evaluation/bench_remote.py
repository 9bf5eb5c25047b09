"""What distance to the LLM costs: one pair, its LLM behind a server whose answers are held back for a while.

Non-goals: the server's own speed, which is part of every row; rows without added latency show it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from random import Random
from statistics import median
from typing import Any

import httpx

from select_to_think.config import DecodeConfig, PairConfig, SelectConfig
from select_to_think.session import Session
from select_to_think.structures import Generation, Progress, S2TError

Case = tuple[float, int, bool]  # the first fields of `RemoteRow`


@dataclass(frozen=True)
class RemoteRow:
    """One latency and batch size; tokens are those of the answers."""

    latency_ms: float
    rows: int
    guess: bool  # a single row goes on while the LLM selects
    tokens_per_second: float
    seconds_per_answer: float  # from its start, `rows` at a time
    relative_throughput: float  # to the same rows that wait, at the least latency
    llm_requests_per_token: float
    bytes_per_token: float  # of bodies, both ways
    cached_fraction: float  # of the prompts' tokens, as the server counts them; 0 where it does not
    discarded_per_token: float  # SLM tokens computed ahead in vain
    llm_failures: int
    same_tokens: bool  # as without the delays


def bench_remote(
    pair: PairConfig,
    questions: Sequence[str],
    method: str,
    select: SelectConfig,
    *,
    latencies_ms: Sequence[float],
    batches: Sequence[int],
    jitter: float,
    new_tokens: int,
    repeats: int,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Every latency, give or take `jitter` of it, with every batch size in turn, on the same questions; of `repeats`
    rounds the median.

    Raises S2TError unless `pair.llm` is the address of a server.
    """
    session, latency_ms, random = Session(pair), 0.0, Random(0)
    if session.reached is None:
        raise S2TError("this needs an LLM behind a server: name it with --llm http://host:port/v1")

    async def hold_back(response: httpx.Response) -> None:
        await asyncio.sleep(latency_ms / 1000 * (1 + jitter * random.uniform(-1, 1)))

    session.reached.server.transport.client.event_hooks["response"].append(hold_back)
    cases = [
        (latency, rows, guess)
        for rows in batches
        for guess in ((False, True) if rows == 1 else (False,))
        for latency in latencies_ms
    ]

    def run(rows: int) -> list[Generation]:
        return session.generate(questions, method, DecodeConfig(max_new_tokens=new_tokens, max_batch=rows), select)

    reference = [answer.tokens for answer in run(max(batches))]
    rounds: dict[Case, list[RemoteRow]] = {case: [] for case in cases}
    for done, case in enumerate(cases * repeats, start=1):
        latency_ms, rows, guess = case
        session.runtime_config = replace(session.runtime_config, llm_guess=guess)
        before, start = replace(session.reached.server.transport.traffic), time.perf_counter()
        answers = run(rows)
        same = [answer.tokens for answer in answers] == reference
        rounds[case].append(measured(session, case, answers, before, time.perf_counter() - start, same))
        if progress:
            progress(done, len(cases) * repeats)
    typical = {each: median_row(rows) for each, rows in rounds.items()}
    near = {rows: typical[min(latencies_ms), rows, False].tokens_per_second for rows in batches}
    compared = (replace(row, relative_throughput=row.tokens_per_second / near[row.rows]) for row in typical.values())
    return list(map(asdict, compared))


def median_row(rows: Sequence[RemoteRow]) -> RemoteRow:
    """The median of each number over the rounds of one case; failures are added up, `same_tokens` is of all."""
    numbers = (field.name for field in fields(RemoteRow) if field.type == "float")
    return replace(
        rows[0],
        **{name: median(getattr(row, name) for row in rows) for name in numbers},
        llm_failures=sum(row.llm_failures for row in rows),
        same_tokens=all(row.same_tokens for row in rows),
    )


def measured(
    session: Session, case: Case, answers: Sequence[Generation], before: Any, seconds: float, same: bool
) -> RemoteRow:
    """The row of one round, from its answers and from the traffic `before` it."""
    assert session.reached is not None
    traffic, tokens = session.reached.server.transport.traffic, sum(len(answer.tokens) for answer in answers)
    read = traffic.prompt_tokens - before.prompt_tokens
    moved = traffic.bytes_sent + traffic.bytes_received - before.bytes_sent - before.bytes_received
    return RemoteRow(
        *case,
        tokens_per_second=tokens / seconds,
        seconds_per_answer=seconds * min(case[1], len(answers)) / len(answers),
        relative_throughput=1.0,
        llm_requests_per_token=(traffic.requests - before.requests) / tokens,
        bytes_per_token=moved / tokens,
        cached_fraction=(traffic.cached_tokens - before.cached_tokens) / read if read else 0.0,
        discarded_per_token=sum(answer.counts.slm_tokens_discarded for answer in answers) / tokens,
        llm_failures=sum(answer.counts.llm_failures for answer in answers),
        same_tokens=same,
    )
