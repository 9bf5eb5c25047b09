"""Contexts behind a server: what is asked is sent at once, and collected when it has been answered.

A context here is its tokens. Each observed position is one question about a prefix (`Query`), which the server's prefix
cache knows but for the newest tokens; the questions of a block or a branch travel side by side.

Non-goals: hidden states, adapters, sampling: what is observed behind a server is what follows, and how probable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

import numpy as np

from select_to_think.contexts.protocol import Ask, Context
from select_to_think.contexts.remote.questions import Query, Seen
from select_to_think.contexts.remote.servers import Server
from select_to_think.structures import Branch, Extend, Observation, Observe, S2TError, Undecided

PLENTY = 1 << 20  # contexts; they cost nothing here


@dataclass(slots=True, eq=False)
class Sent:
    """A request on its way."""

    future: Future[None]
    length: int  # of the context before it


class RemoteBackend:
    """One model behind a server, many contexts."""

    remote = True

    def __init__(self, server: Server, vocabulary: int, forbidden: Collection[int] = (), cost: float = 1.0) -> None:
        """Ask `server`; ids from `vocabulary` on (padding), and those in `forbidden`, are never its choice."""
        self.server, self.cost, self.forwards = server, cost, 0
        self.vocabulary, self.forbidden = vocabulary, frozenset(forbidden)
        self.sent: dict[Ask, Sent] = {}
        self.answered: SimpleQueue[Ask] = SimpleQueue()

    @property
    def waiting(self) -> Sequence[Ask]:
        """Submitted and not collected."""
        return list(self.sent)

    def open(self, tokens: int, adapter: str | None = None) -> Context | None:
        """An empty context."""
        return Context(0, 0)

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
        _, tokens = context.leaves[leaf]
        context.append(tokens)

    def submit(self, ask: Ask) -> None:
        """Send a request."""
        length = len(ask.context)
        if isinstance(ask.request, Extend):
            ask.context.append(ask.request.tokens)
        queries = list(self.queries(ask))
        future = self.server.transport.start(self.answer(ask, queries))
        self.sent[ask] = Sent(future, length)

    def step(self, patience_s: float = 0.0) -> list[Ask]:
        """The requests that are answered now; the first of them is waited for, up to `patience_s` seconds.

        The context of a request that failed is as it was before.
        """
        found: list[Ask] = []
        try:
            while True:
                wait = 0.0 if found else patience_s
                ask = self.answered.get(timeout=wait) if wait else self.answered.get_nowait()
                if ask in self.sent:
                    self.settle(ask, self.sent.pop(ask))
                    found.append(ask)
        except Empty:
            return found

    def settle(self, ask: Ask, sent: Sent) -> None:
        """Charge an answer to its row, and take back what a failed request appended."""
        context, request = ask.context, ask.request
        if isinstance(ask.answer, Exception):
            context.truncate(sent.length)
            return
        self.forwards += 1
        width = request.width if isinstance(request, Branch) else 0
        context.account.tokens_processed += context.pending + width
        context.account.forwards += 1
        context.stored = len(context)
        if isinstance(request, Branch):
            context.leaves = [(0, leaf) for leaf in request.continuations]

    def queries(self, ask: Ask) -> Iterator[Query]:
        """A question for each observed position."""
        request, held = ask.request, ask.context.tokens
        observe = request.observe
        assert observe is not None
        if observe != Observe(observe.top_k, ids=observe.ids, best_only=observe.best_only, every=observe.every):
            raise S2TError(
                "an LLM behind a server tells what follows, without its states or a bias: choose one in process"
            )
        if isinstance(request, Branch):
            prefixes = [(*held, *leaf) for leaf in request.continuations]
        else:
            count = max(1, len(request.tokens)) if observe.every else 1
            prefixes = [tuple(held[:end]) for end in range(len(held) - count + 1, len(held) + 1)]
        asked = [()] * len(prefixes) if observe.ids is None else observe.ids
        for prefix, ids in zip(prefixes, asked, strict=True):
            if not prefix:
                raise S2TError("an LLM behind a server is asked behind at least one token")
            yield Query(prefix, max(1, observe.top_k), tuple(dict.fromkeys(map(int, ids))), observe.best_only)

    async def answer(self, ask: Ask, queries: Sequence[Query]) -> None:
        """Ask all questions of a request at once, and put the request where `step` finds it."""
        try:
            seen = await asyncio.gather(*map(self.look, queries))
            ask.answer = observation(ask.request, seen)
        except Exception as error:
            ask.answer = error
        self.answered.put(ask)

    async def look(self, query: Query) -> Seen:
        """One question; one more where the server's choice is a token that is never emitted."""
        seen = await self.server.look(query)
        top = self.permitted(seen.top)
        if not top:
            top = self.permitted((await self.server.look(replace(query, ids=(), top=self.server.longest_top))).top)
        if not top:
            raise Undecided("the most probable tokens that the server tells are none that is ever written")
        return replace(seen, top=top[: query.top])

    def permitted(self, top: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
        """Those of the most probable tokens that may be written."""
        return tuple(pair for pair in top if pair[0] < self.vocabulary and pair[0] not in self.forbidden)


def observation(request: Extend | Branch, seen: Sequence[Seen]) -> Observation:
    """The answers of P positions as arrays; of the top tokens as many columns as all positions have."""
    observe = request.observe
    assert observe is not None
    width = min(len(each.top) for each in seen)
    top_ids = np.array([[i for i, _ in each.top[:width]] for each in seen], np.int64)  # (P, width)
    top_logprobs = np.array([[value for _, value in each.top[:width]] for each in seen], np.float32)
    asked = None
    if observe.ids is not None:
        rows = [[each.asked[int(i)] for i in ids] for each, ids in zip(seen, observe.ids, strict=True)]
        asked = np.array(rows, np.float32)  # (P, asked)
    if not observe.top_k:
        return Observation(asked_logprobs=asked)  # type: ignore[arg-type]
    return Observation(top_ids, top_logprobs, asked_logprobs=asked)  # type: ignore[arg-type]
