"""What distance to the LLM costs: one pair, its LLM behind a server, and a proxy that delays the server's answers.

Non-goals: the server's own speed, which is part of every row; rows without added latency show it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from select_to_think.config import DecodeConfig, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.session import Session
from select_to_think.structures import Generation, Progress, S2TError

CHUNK = 1 << 16  # bytes


class Proxy:
    """Hands bytes on to one address; those that come back are late by `latency_s`, give or take `jitter` of it."""

    def __init__(self, host: str, port: int) -> None:
        """In front of a server."""
        self.host, self.port, self.latency_s, self.jitter = host, port, 0.0, 0.0
        self.random = random.Random(0)

    @contextmanager
    def running(self) -> Iterator[int]:
        """The port on this machine at which it listens."""
        loop = asyncio.new_event_loop()
        thread = Thread(target=loop.run_forever, daemon=True)
        thread.start()
        starting = asyncio.start_server(self.serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(starting, loop).result()
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            asyncio.run_coroutine_threadsafe(end_all(server), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            await asyncio.gather(self.pump(client, writer, lambda: 0.0), self.pump(reader, back, self.delay))
        except (OSError, asyncio.CancelledError):  # the server is gone, or the proxy ends
            back.close()

    def delay(self) -> float:
        """Seconds for what comes back now."""
        return self.latency_s * (1 + self.jitter * self.random.uniform(-1, 1))

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: Callable[[], float]) -> None:
        """Hand on what comes, each piece after a while, in order."""
        try:
            while data := await source.read(CHUNK):
                await asyncio.sleep(delay())
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()


async def end_all(server: asyncio.Server) -> None:
    """Close a server and its connections."""
    server.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


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
    """Every latency with every batch size in turn, on the same questions; of `repeats` rounds the median.

    Raises S2TError unless `pair.llm` is the address of a server without TLS, which the proxy would not pass.
    """
    address = urlsplit(pair.llm or "")
    if address.scheme != "http" or address.hostname is None:
        raise S2TError("this needs a server without TLS: name it with --llm http://host:port/v1")
    proxy = Proxy(address.hostname, address.port or 80)
    cases = [
        (latency, rows, guess)
        for rows in batches
        for guess in ((False, True) if rows == 1 else (False,))
        for latency in latencies_ms
    ]
    rounds: dict[tuple[float, int, bool], list[RemoteRow]] = {case: [] for case in cases}
    with proxy.running() as port:
        session = Session(replace(pair, llm=f"http://127.0.0.1:{port}{address.path}"), runtime=RuntimeConfig())
        reference = [answer.tokens for answer in run(session, questions, method, select, max(batches), new_tokens)]
        for done, case in enumerate(cases * repeats):
            latency, rows, guess = case
            proxy.latency_s, proxy.jitter = latency / 1000, jitter
            session.runtime_config = replace(session.runtime_config, llm_guess=guess)
            row, tokens = measured(session, questions, method, select, latency, rows, new_tokens)
            rounds[case].append(replace(row, same_tokens=tokens == reference, guess=guess))
            if progress:
                progress(done + 1, len(cases) * repeats)
    return [asdict(row) for row in medians(rounds)]


def medians(rounds: Mapping[tuple[float, int, bool], Sequence[RemoteRow]]) -> Iterator[RemoteRow]:
    """The median round of each case, beside that of the same rows that wait for the nearest server."""
    nearest = min(latency for latency, _, _ in rounds)
    typical = {
        case: sorted(rows, key=lambda row: row.tokens_per_second)[len(rows) // 2] for case, rows in rounds.items()
    }
    for (_, rows, _), row in typical.items():
        base = typical[nearest, rows, False]
        yield replace(row, relative_throughput=row.tokens_per_second / base.tokens_per_second)


def run(
    session: Session, questions: Sequence[str], method: str, select: SelectConfig, rows: int, new_tokens: int
) -> list[Generation]:
    """The answers, `rows` at a time."""
    decode = DecodeConfig(max_new_tokens=new_tokens, max_batch=rows)
    return session.generate(questions, method, decode, select)


def measured(
    session: Session,
    questions: Sequence[str],
    method: str,
    select: SelectConfig,
    latency_ms: float,
    rows: int,
    new_tokens: int,
) -> tuple[RemoteRow, list[tuple[int, ...]]]:
    """One case, and its answers."""
    assert session.reached is not None
    traffic = session.reached.server.transport.traffic
    before, start = replace(traffic), time.perf_counter()
    answers = run(session, questions, method, select, rows, new_tokens)
    seconds = time.perf_counter() - start
    tokens = sum(len(answer.tokens) for answer in answers)
    read = traffic.prompt_tokens - before.prompt_tokens
    moved = traffic.bytes_sent + traffic.bytes_received - before.bytes_sent - before.bytes_received
    row = RemoteRow(
        latency_ms=latency_ms,
        rows=rows,
        guess=False,
        tokens_per_second=tokens / seconds,
        seconds_per_answer=seconds * min(rows, len(answers)) / len(answers),
        relative_throughput=1.0,
        llm_requests_per_token=(traffic.requests - before.requests) / tokens,
        bytes_per_token=moved / tokens,
        cached_fraction=(traffic.cached_tokens - before.cached_tokens) / read if read else 0.0,
        discarded_per_token=sum(answer.counts.slm_tokens_discarded for answer in answers) / tokens,
        llm_failures=sum(answer.counts.llm_failures for answer in answers),
        same_tokens=True,
    )
    return row, [answer.tokens for answer in answers]
