"""HTTP to one server: keep-alive, bounded concurrency, retries within a deadline, a circuit breaker.

All traffic runs in one event loop in a thread of its own, so that nothing waits for it but who wants to.

Non-goals: what is asked and what an answer means (`servers.py`).
"""

from __future__ import annotations

import asyncio
import json
import random
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

import httpx

from select_to_think.config import RuntimeConfig
from select_to_think.structures import ModelRefused, ModelUnavailable, S2TError
from select_to_think.text import visible

T = TypeVar("T")

TRANSIENT = frozenset((408, 425, 429, 500, 502, 503, 504, 529))
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0  # between attempts, and between looks at a server that is given up
SHOWN = 200  # characters of a server's own message
Call = tuple[str, Mapping[str, Any] | None, Callable[[Any], Any]]  # path, body, and what reads the answer
introducing: ContextVar[bool] = ContextVar("introducing", default=False)


class Unreadable(Exception):
    """An answer that is none: cut off, without log-probabilities, not a number, or about another prompt."""


class Missed(Exception):
    """An attempt that may be made again; `retry_after_s` if the server said when."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class Traffic:
    """What went over the wire so far."""

    requests: int = 0  # attempts
    retries: int = 0
    bytes_sent: int = 0  # of bodies
    bytes_received: int = 0
    prompt_tokens: int = 0  # as the server counted them ...
    cached_tokens: int = 0  # ... and those of them that it had in its cache


class Turns:
    """Lets one kind of requests be under way at a time, however many; kinds that wait take turns."""

    def __init__(self) -> None:
        """Nothing is under way."""
        self.kind, self.under_way = "", 0
        self.waiting: dict[str, list[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def take(self, kind: str | None) -> AsyncIterator[None]:
        """Wait for the turn of a kind; None takes part in no turn."""
        if kind is None:
            yield
            return
        if self.under_way and (self.waiting or kind != self.kind):
            await self.admitted(kind)
        else:
            self.kind, self.under_way = kind, self.under_way + 1
        try:
            yield
        finally:
            self.leave()

    async def admitted(self, kind: str) -> None:
        """Wait until the kind's next turn has begun."""
        turn = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(kind, []).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """One request less; behind the last one the next turn begins."""
        self.under_way -= 1
        while not self.under_way and self.waiting:
            self.kind = next(iter(self.waiting))
            for turn in self.waiting.pop(self.kind):
                if not turn.done():
                    turn.set_result(None)
                    self.under_way += 1


class Transport:
    """One server's address, and the state of the way there."""

    def __init__(self, url: str, config: RuntimeConfig = RuntimeConfig(), key: str | None = None) -> None:
        """Talk to the server whose root is `url`, showing it `key`."""
        self.url, self.config, self.traffic = url, config, Traffic()
        self.random = random.Random()
        self.loop = asyncio.new_event_loop()
        Thread(target=self.loop.run_forever, name=f"s2t {url}", daemon=True).start()
        weakref.finalize(self, end, self.loop)
        limits = httpx.Limits(max_connections=config.llm_concurrency, max_keepalive_connections=config.llm_concurrency)
        headers = {"Authorization": f"Bearer {key}"} if key else None
        self.client = httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=config.llm_timeout)
        self.places, self.turns = asyncio.Semaphore(config.llm_concurrency), Turns()
        self.rest_until = 0.0  # by the loop's clock: the server asked to be left alone
        self.lost: str | None = None  # why nothing is asked at present: the circuit is open
        self.heard = 0.0  # by the loop's clock: when a call last succeeded
        self.good: Call | None = None  # and which
        self.restarted = False  # a connection broke: whoever answers next must show who it is
        self.identify: Callable[[], Awaitable[None]] | None = None  # raises S2TError if it is another one
        self.identifying = asyncio.Lock()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something that runs in the loop."""
        return self.start(work).result()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Let something run in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def call(
        self, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], T], turn: str | None = None
    ) -> T:
        """Post `body` (get, without one) and return what `read` makes of the JSON that comes back.

        Requests of a `turn` are under way beside others of it alone.

        Raises:
            ModelUnavailable: no usable answer within `llm_deadline` seconds, or the server is given up at present.
            ModelRefused: the server refuses the key, or is another one by now.
            S2TError: the server refuses the request.
        """
        begun, pause = 0.0, FIRST_PAUSE_S
        while True:
            if self.lost is not None:
                raise ModelUnavailable(f"the LLM at {self.url} does not answer ({self.lost})")
            if self.restarted and self.identify is not None and not introducing.get():
                await self.introduce(self.identify)
                continue
            try:
                async with self.places, self.turns.take(turn):
                    while (left := self.rest_until - self.loop.time()) > 0:
                        await asyncio.sleep(left)
                    now = self.loop.time()
                    begun = begun or now
                    found = await self.attempt(path, body, read, begun + self.config.llm_deadline - now)
                if body is not None:  # a server may tell of itself, and its engine be dead
                    self.heard, self.good = self.loop.time(), (path, body, read)
                return found
            except Missed as missed:
                pause = min(LONGEST_PAUSE_S, 2 * pause)
                wait = max(missed.retry_after_s, pause * self.random.uniform(0.5, 1.0))
                if self.loop.time() + wait >= begun + self.config.llm_deadline:
                    if self.heard > begun:  # others were answered meanwhile: it is this request
                        reason = f"the LLM at {self.url} does not answer a request ({missed})"
                        raise ModelUnavailable(reason) from missed
                    self.give_up(str(missed), self.good or (path, body, read))
                else:
                    self.traffic.retries += 1
                    await asyncio.sleep(wait)

    async def introduce(self, identify: Callable[[], Awaitable[None]]) -> None:
        """Find out whether the server is still the one that it was; the calls of `identify` itself do not ask that."""
        async with self.identifying:
            if not self.restarted or self.lost is not None:
                return
            token = introducing.set(True)
            try:
                await identify()
                self.restarted = False
            finally:
                introducing.reset(token)

    async def attempt(self, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], T], left_s: float) -> T:
        """One request, a GET without a body; raises `Missed` where another may do better."""
        content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        self.traffic.requests += 1
        self.traffic.bytes_sent += len(content)
        patience = max(0.05, min(self.config.llm_timeout, left_s))
        headers = {"Content-Type": "application/json"}
        sending = self.client.request("GET" if body is None else "POST", path, content=content or None, headers=headers)
        try:
            response = await asyncio.wait_for(sending, patience)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Missed(f"no answer within {patience:.3g} s") from error
        except httpx.HTTPError as error:
            self.restarted = True
            raise Missed(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        self.traffic.bytes_received += len(response.content)
        return self.judge(response, read)

    async def peek(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What one request brings, or None if it brings nothing."""
        try:
            return await self.attempt(path, body, lambda answer: answer, self.config.llm_timeout)
        except (Missed, S2TError):
            return None

    def judge(self, response: httpx.Response, read: Callable[[Any], T]) -> T:
        """What a response says, or why it says nothing."""
        status = response.status_code
        if status in TRANSIENT:
            wait = retry_after(response)
            if wait:
                self.rest_until = max(self.rest_until, self.loop.time() + min(wait, self.config.llm_deadline))
            raise Missed(f"HTTP {status}", wait)
        if status == 404:
            self.restarted = True  # as servers say that they do not have the model
            raise Missed(f"HTTP 404: {told(response)}")
        if status in (401, 403):
            raise ModelRefused(f"the LLM at {self.url} refuses the key (HTTP {status}): set S2T_LLM_API_KEY")
        if status >= 400:
            raise S2TError(f"the LLM at {self.url} refuses a request (HTTP {status}): {told(response)}")
        try:
            return read(response.json())
        except Unreadable as error:
            raise Missed(str(error)) from error
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise Missed(f"an answer that cannot be read ({type(error).__name__}: {str(error)[:SHOWN]})") from error

    def give_up(self, reason: str, probe: Call) -> None:
        """Open the circuit, and let one task find out when the server answers a call again."""
        if self.lost is None:
            self.lost = reason
            self.watch = self.loop.create_task(self.look_again(*probe))

    async def look_again(self, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], Any]) -> None:
        """Make a call until it succeeds; then the circuit is closed. One that succeeded before, if any did: what failed
        may be a request that no server of this model can answer."""
        pause = FIRST_PAUSE_S
        while True:
            pause = min(LONGEST_PAUSE_S, 2 * pause)
            await asyncio.sleep(pause * self.random.uniform(0.5, 1.0))
            try:
                await self.attempt(path, body, read, self.config.llm_timeout)
            except Missed as missed:
                self.lost = str(missed)
            except S2TError:  # an answer after all, if a refusal; whoever asks next gets one of its own
                break
            else:
                break
        self.lost = None


def end(loop: asyncio.AbstractEventLoop) -> None:
    """Let what still runs in a loop end, and then the loop."""

    async def cancel() -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        loop.stop()

    asyncio.run_coroutine_threadsafe(cancel(), loop)


def retry_after(response: httpx.Response) -> float:
    """Seconds that a server asks to be left alone for; 0 if it does not say so as a number."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "0")))
    except ValueError:
        return 1.0  # a date: whatever the clocks say, not at once


def told(response: httpx.Response) -> str:
    """What a server says of a refusal, in one line."""
    try:
        found = response.json()
        error = found.get("error", found.get("message", found))
        text = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = response.text
    return visible(" ".join(str(text).split()))[:SHOWN]
