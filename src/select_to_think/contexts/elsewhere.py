"""Contexts whose forwards are made elsewhere: what is asked is sent at once, and collected when it has been answered.

A context here is its tokens.

Non-goals: who answers (`remote/backend.py`, the vLLM plug-in).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from select_to_think.contexts.protocol import Ask, Context
from select_to_think.structures import Branch, Extend

PLENTY = 1 << 20  # contexts; they cost nothing here


@dataclass(slots=True, eq=False)
class Sent:
    """A request on its way."""

    future: Future[None]
    before: int  # length of the context before it
    behind: int  # and with it


class BackendElsewhere(ABC):
    """One model elsewhere, many contexts."""

    remote = True
    cost = 1.0

    def __init__(self) -> None:
        """Nothing is asked yet."""
        self.forwards = 0
        self.sent: dict[Ask, Sent] = {}
        self.answered: SimpleQueue[Ask] = SimpleQueue()

    @abstractmethod
    def question(self, ask: Ask) -> Callable[[], Awaitable[Any]]:
        """What, called in the event loop, answers a request about its context as it is now."""

    @abstractmethod
    def start(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        """Let something run in the event loop that talks to the model."""

    @property
    def waiting(self) -> Sequence[Ask]:
        """Submitted and not collected."""
        return list(self.sent)

    def open(self, tokens: int, adapter: str | None = None) -> Context | None:
        """An empty context."""
        return Context(0, 0, adapter)

    def capacity(self, tokens: int) -> int:
        """As many as anybody wants."""
        return PLENTY

    def copy(self, source: Context, target: Context) -> None:
        """Give `target` the tokens of `source`."""
        target.tokens, target.stored = list(source.tokens), source.stored

    def close(self, context: Context) -> None:
        """Drop what was asked about the context."""
        for ask in [ask for ask in self.sent if ask.context is context]:
            self.sent.pop(ask).future.cancel()

    def adopt(self, context: Context, leaf: int) -> None:
        """Let the context go on with a leaf of its last branch."""
        tokens = context.leaves[leaf]
        context.append(tokens)

    def submit(self, ask: Ask) -> None:
        """Send a request."""
        before = len(ask.context)
        if isinstance(ask.request, Extend):
            ask.context.append(ask.request.tokens)
        self.sent[ask] = Sent(self.start(self.deliver(ask, self.question(ask))), before, len(ask.context))

    async def deliver(self, ask: Ask, answer: Callable[[], Awaitable[Any]]) -> None:
        """Put an answered request where `step` finds it."""
        try:
            ask.answer = await answer()
        except Exception as error:
            ask.answer = error
        self.answered.put(ask)
        if ask.arrival is not None:
            ask.arrival.set()

    def step(self) -> list[Ask]:
        """The requests that are answered now. The context of one that failed is as it was before."""
        found: list[Ask] = []
        try:
            while True:
                ask = self.answered.get_nowait()
                if ask in self.sent:
                    sent = self.sent.pop(ask)
                    if not isinstance(ask.answer, Exception):
                        self.settle(ask, sent.behind)
                    elif isinstance(ask.request, Extend):
                        ask.context.truncate(sent.before)
                    found.append(ask)
        except Empty:
            return found

    def settle(self, ask: Ask, length: int) -> None:
        """Charge an answer, behind `length` tokens of the context, to its row."""
        context, request = ask.context, ask.request
        self.forwards += 1
        width = request.width if isinstance(request, Branch) else 0
        context.account.tokens_processed += max(0, length - context.stored) + width
        context.account.forwards += 1
        context.stored = max(length, context.stored)
        if isinstance(request, Branch):
            context.leaves = request.continuations
