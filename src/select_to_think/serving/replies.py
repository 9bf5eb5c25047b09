"""Answering a request: its runs go to the engine, and what comes of them goes out, at the end or as it comes.

Non-goals: what the parts look like (`chat.py`, `completions.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from select_to_think.runs import Committed, Failed, Finished
from select_to_think.serving.answers import Delta, Writing, usage
from select_to_think.serving.errors import RequestError, request_error
from select_to_think.serving.jobs import Order
from select_to_think.serving.readers import ServingEngine
from select_to_think.serving.schemas import ChatRequest, CompletionRequest
from select_to_think.serving.wanted import Wanted
from select_to_think.structures import Generation

T = TypeVar("T")


class Form(Protocol):
    """How one kind of answer looks."""

    prefix: str
    whole_object: str
    chunk_object: str

    def opening(self) -> dict[str, Any] | None: ...
    def part(self, delta: Delta) -> dict[str, Any]: ...
    def whole(self, delta: Delta, writing: Writing) -> dict[str, Any]: ...


class ClientGone(Exception):
    """Nobody reads the answer any more."""


@dataclass
class Reply:
    """One request on its way: it is submitted when it is made.

    Raises:
        RequestError: the queue is full, or the server stops.
    """

    engine: ServingEngine
    model: str
    request: ChatRequest | CompletionRequest
    orders: Sequence[Order]
    form: Form
    timeout_s: float
    writings: list[Writing] = field(init=False)
    scored: dict[int, Generation] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        """Submit the runs."""
        self.deadline = asyncio.get_running_loop().time() + self.timeout_s
        self.id = f"{self.form.prefix}-{getrandbits(128):032x}"
        self.writings = [
            Writing(self.engine.session, order, trace=self.request.s2t.trace, alternatives=self.request.alternatives)
            for order in self.orders
        ]
        orders = list(enumerate(self.orders))
        wanted: list[tuple[int, Wanted]] = [(place, order.answering) for place, order in orders if order.answering]
        self.answers = len(wanted)  # what is behind these scores prompts
        wanted += [(place, order.scoring) for place, order in orders if order.scoring]
        self.places = [place for place, _ in wanted]
        self.client = self.engine.take([each for _, each in wanted])

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """(choice, what is new of it), echoed prompts first; an answer has ended when its writing has a reason.

        Raises:
            RequestError: a run failed, or the request took too long.
        """
        awaited: dict[int, list[Delta]] = {place: [] for place in self.places[self.answers :]}
        if isinstance(self.request, CompletionRequest) and self.request.echo:
            for place, writing in enumerate(self.writings):
                if place not in awaited:
                    yield place, writing.echo(None)
        try:
            async for index, event in self.client.events(self.deadline):
                place = self.places[index]
                if isinstance(event, Failed):
                    raise request_error(event.error)
                if index >= self.answers:
                    if isinstance(event, Finished):
                        self.scored[place] = event.result
                        yield place, self.writings[place].echo(event.result)
                        for held in awaited.pop(place):
                            yield place, held
                    continue
                writing = self.writings[place]
                delta = writing.add(event.steps) if isinstance(event, Committed) else writing.finish(event.result)
                if place in awaited:
                    awaited[place].append(delta)
                else:
                    yield place, delta
        except TimeoutError:
            raise RequestError(f"the request took longer than {self.timeout_s:g} s", 504, code="timeout") from None
        finally:
            self.client.leave()

    async def whole(self) -> dict[str, Any]:
        """The answer once all is written."""
        told: dict[int, Delta] = defaultdict(Delta)
        async for place, delta in self.deltas():
            told[place].text += delta.text
            told[place].steps += delta.steps
            told[place].logprobs += delta.logprobs
        choices = []
        for place, writing in enumerate(self.writings):
            choice = {"index": place, **self.form.whole(told[place], writing), "finish_reason": writing.finish_reason}
            if self.request.s2t.trace:
                choice["s2t"] = {"steps": told[place].steps, **writing.summary}
            choices.append(choice)
        return {**self.head(self.form.whole_object), "choices": choices, "usage": self.usage()}

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a stream; the first waits for the first news, so that what fails before has a status."""
        opened = False
        async for place, delta in self.deltas():
            if not opened:
                for each in range(len(self.orders)):
                    if opening := self.form.opening():
                        yield self.chunk(each, opening)
            opened = True
            if not delta.empty:
                own = {"s2t": {"steps": delta.steps}} if self.request.s2t.trace else {}
                yield self.chunk(place, {**self.form.part(delta), **own})
            if delta.ends:
                yield self.last(place)
        for place, order in enumerate(self.orders):
            if order.answering is None:
                yield self.last(place)
        if self.request.include_usage:
            yield {**self.head(self.form.chunk_object), "choices": [], "usage": self.usage()}

    def last(self, place: int) -> dict[str, Any]:
        """The chunk that ends a choice."""
        writing = self.writings[place]
        own = {"s2t": {"steps": [], **writing.summary}} if self.request.s2t.trace else {}
        return self.chunk(place, {**self.form.part(Delta()), "finish_reason": writing.finish_reason, **own})

    def chunk(self, place: int, choice: dict[str, Any]) -> dict[str, Any]:
        """One chunk about one choice."""
        usage = {"usage": None} if self.request.include_usage else {}
        choices = [{"index": place, "finish_reason": None, **choice}]
        return {**self.head(self.form.chunk_object), "choices": choices, **usage}

    def head(self, kind: str) -> dict[str, Any]:
        """What every answer and chunk begins with."""
        fingerprint = f"fp_{self.engine.session.slm.fingerprint[:12]}"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint,
        }

    def usage(self) -> dict[str, Any]:
        """What the request cost."""
        return usage(self.writings, list(self.scored.values()), self.request.n or 1)


async def server_sent(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """Chunks as server-sent events; what fails in their midst is the last of them."""
    yield b"data: %b\n\n" % to_json(first)
    try:
        async for chunk in rest:
            yield b"data: %b\n\n" % to_json(chunk)
    except Exception as error:
        yield b"data: %b\n\n" % to_json(request_error(error).body)
    yield b"data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """A stream of server-sent events whose runs end with it, however it ends."""

    def __init__(self, reply: Reply, first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> None:
        """The chunks are those of `reply`, of which the first is there already."""
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(server_sent(first, rest), media_type="text/event-stream", headers=headers)
        self.reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.reply.client.leave()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up.

    Raises:
        ClientGone: it has.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        for task in (working, watching):
            task.cancel()
