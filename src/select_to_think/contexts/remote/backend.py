"""Contexts behind a server.

Each observed position is one question about a prefix (`Query`), which the server's prefix cache knows but for the
newest tokens; the questions of a block or a branch travel side by side.

Non-goals: hidden states, adapters, sampling: what is observed behind a server is what follows, and how probable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from select_to_think.contexts.elsewhere import BackendElsewhere
from select_to_think.contexts.protocol import Ask
from select_to_think.contexts.remote.questions import Query, Seen
from select_to_think.contexts.remote.servers import Server
from select_to_think.structures import Branch, Extend, Observation, Observe, S2TError, Undecided


class RemoteBackend(BackendElsewhere):
    """One model behind a server, many contexts."""

    def __init__(self, server: Server, vocabulary: int, forbidden: Collection[int]) -> None:
        """Ask `server`; ids from `vocabulary` on (padding), and those in `forbidden`, are never its choice."""
        super().__init__()
        self.server, self.vocabulary, self.forbidden = server, vocabulary, frozenset(forbidden)

    def start(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        """Let something run in the loop of the transport."""
        return self.server.transport.start(work)

    def question(self, ask: Ask) -> Callable[[], Awaitable[Observation]]:
        """All questions of a request at once."""
        return partial(self.seen, ask.request, list(self.queries(ask)))

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

    async def seen(self, request: Extend | Branch, queries: Sequence[Query]) -> Observation:
        """The answers to all questions of a request."""
        return observation(request, await asyncio.gather(*map(self.look, queries)))

    async def look(self, query: Query) -> Seen:
        """One question; one more where the server's choice is a token that is never emitted."""
        most = min(query.top + len(self.forbidden), self.server.longest_top)  # some of them may be forbidden
        seen = await self.server.look(query if query.top == 1 else replace(query, top=max(query.top, most)))
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
