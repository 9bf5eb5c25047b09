"""Answering a request: its runs go to the engine, and what comes of them goes out, at the end or as it comes.

Non-goals: what the parts look like (`forms.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from select_to_think.serving.answers import Delta, Writing, usage
from select_to_think.serving.errors import ClientGone, RequestError, request_error
from select_to_think.serving.forms import ChatForm, CompletionForm
from select_to_think.serving.jobs import Order
from select_to_think.serving.readers import DistantEngine
from select_to_think.serving.schemas import ChatRequest, CompletionRequest
from select_to_think.serving.wanted import Ended, News, Wanted, Written

Deltas = list[tuple[int, Delta]]  # (choice, what is new of it)


@dataclass
class Reply:
    """One request on its way: it is submitted when it is made, and left when its client hangs up.

    Raises:
        RequestError: the server stops.
    """

    engine: DistantEngine
    model: str
    request: ChatRequest | CompletionRequest
    receive: Receive
    orders: Sequence[Order]
    form: ChatForm | CompletionForm
    timeout_s: float
    scored: list[Ended] = field(default_factory=list)
    failed: bool = False

    def __post_init__(self) -> None:
        """Submit the runs."""
        self.deadline = asyncio.get_running_loop().time() + self.timeout_s
        self.common = {
            "id": f"{self.form.prefix}-{getrandbits(128):032x}",
            "object": self.form.chunk_object if self.request.stream else self.form.whole_object,
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": f"fp_{self.engine.session.slm.fingerprint[:12]}",
        }
        self.writings = [
            Writing(self.engine.session, order, trace=self.request.s2t.trace, alternatives=self.request.alternatives)
            for order in self.orders
        ]
        orders = list(enumerate(self.orders))
        wanted: list[tuple[int, Wanted]] = [(place, order.answering) for place, order in orders if order.answering]
        self.answers = len(wanted)  # what is behind these scores prompts
        wanted += [(place, order.scoring) for place, order in orders if order.scoring]
        self.places = [place for place, _ in wanted]
        self.awaited: dict[int, Deltas] = {place: [] for place in self.places[self.answers :]}
        self.client = self.engine.take([each for _, each in wanted])
        self.watching = asyncio.ensure_future(self.watch())

    async def watch(self) -> None:
        """Leave when the client hangs up."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.client.leave()

    def close(self) -> None:
        """Whatever still runs for it ends."""
        self.watching.cancel()
        self.client.leave()

    @property
    def finished(self) -> bool:
        """Whether all that it waited for has been told."""
        return self.failed or not (self.client.open or self.client.held)

    async def deltas(self) -> AsyncIterator[Deltas]:
        """What is new, echoed prompts first; an answer has ended when its writing has a reason.

        Raises:
            RequestError: a run failed, or the request took too long.
            ClientGone: nobody reads it any more.
        """
        try:
            echoes: Deltas = []
            if self.request.echo:
                echoes = [(n, each.echo(())) for n, each in enumerate(self.writings) if n not in self.awaited]
            if echoes or self.finished:
                yield echoes
            async for news in self.client.events(self.deadline):
                yield [delta for index, event in news for delta in self.heard(index, event)]
        except TimeoutError:
            raise RequestError(f"the request took longer than {self.timeout_s:g} s", 504, code="timeout") from None
        finally:
            self.close()

    def heard(self, index: int, event: News) -> Deltas:
        """What an event of a run adds; what is behind a prompt waits until that is scored."""
        if isinstance(event, RequestError):
            raise event
        place = self.places[index]
        writing = self.writings[place]
        if index >= self.answers:
            if isinstance(event, Written):
                return [(place, writing.echo(event.steps)), *self.awaited.pop(place)]
            self.scored.append(event)
            return []
        delta = place, writing.add(event) if isinstance(event, Written) else writing.finish(event)
        if place not in self.awaited:
            return [delta]
        self.awaited[place].append(delta)
        return []

    async def whole(self) -> dict[str, Any]:
        """The answer once all is written. Raises as `deltas` does."""
        told: dict[int, Delta] = defaultdict(Delta)
        async for deltas in self.deltas():
            for place, delta in deltas:
                told[place].text += delta.text
                told[place].steps += delta.steps
                told[place].logprobs += delta.logprobs
        choices = []
        for place, writing in enumerate(self.writings):
            choice = {"index": place, **self.form.whole(told[place], writing), "finish_reason": writing.finish_reason}
            if self.request.s2t.trace:
                choice["s2t"] = {"steps": told[place].steps, **writing.summary}
            choices.append(choice)
        return {**self.common, "choices": choices, "usage": self.usage()}

    async def chunks(self) -> AsyncIterator[list[dict[str, Any]]]:
        """The chunks of a stream, as they come; the first wait for the first news, so that what fails before has a
        status. What fails behind them is the last chunk."""
        opening = self.form.opening()
        found = [self.chunk(place, opening) for place in range(len(self.orders))] if opening else []
        opened = False
        try:
            async for deltas in self.deltas():
                for place, delta in deltas:
                    if not delta.empty:
                        own = {"s2t": {"steps": delta.steps}} if self.request.s2t.trace else {}
                        found.append(self.chunk(place, {**self.form.part(delta), **own}))
                    if delta.ends:
                        found.append(self.last(place))
                yield found + (self.ending() if self.finished else [])
                found, opened = [], True
        except ClientGone:
            raise
        except Exception as error:
            if not opened:
                raise
            self.failed = True
            yield [request_error(error).body]

    def ending(self) -> list[dict[str, Any]]:
        """The chunks behind all answers."""
        found = [self.last(place) for place, order in enumerate(self.orders) if order.answering is None]
        return found + ([{**self.common, "choices": [], "usage": self.usage()}] if self.request.include_usage else [])

    def last(self, place: int) -> dict[str, Any]:
        """The chunk that ends a choice."""
        writing = self.writings[place]
        own = {"s2t": {"steps": [], **writing.summary}} if self.request.s2t.trace else {}
        return self.chunk(place, {**self.form.part(Delta()), "finish_reason": writing.finish_reason, **own})

    def chunk(self, place: int, choice: dict[str, Any]) -> dict[str, Any]:
        """One chunk about one choice."""
        usage = {"usage": None} if self.request.include_usage else {}
        return {**self.common, "choices": [{"index": place, "finish_reason": None, **choice}], **usage}

    def usage(self) -> dict[str, Any]:
        """What the request has cost."""
        return usage(self.writings, self.scored, self.request.n or 1)


class EventStream(StreamingResponse):
    """A reply as server-sent events, those of one moment at once."""

    def __init__(self, reply: Reply, first: list[dict[str, Any]], rest: AsyncIterator[list[dict[str, Any]]]) -> None:
        """The first chunks are there already."""
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__((), media_type="text/event-stream", headers=headers)
        self.reply, self.first, self.rest = reply, first, rest

    @classmethod
    async def begun(cls, reply: Reply) -> EventStream:
        """The stream, once there is something in it. Raises what fails before."""
        chunks = reply.chunks()
        return cls(reply, await anext(chunks), chunks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, as long as somebody reads."""
        chunks, more = self.first, True
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while more:
                more = not self.reply.finished
                body = b"".join(b"data: %b\n\n" % to_json(chunk) for chunk in chunks)
                await send(
                    {
                        "type": "http.response.body",
                        "body": body if more else body + b"data: [DONE]\n\n",
                        "more_body": more,
                    }
                )
                if more:
                    chunks = await anext(self.rest)
        except ClientGone:
            pass
        finally:
            self.reply.close()
