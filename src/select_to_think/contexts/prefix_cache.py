"""Keys and values of sequences that have ended, kept for those that begin alike, until the memory is wanted.

A prompt that was asked before, the next turn of a conversation, an answer that goes on from another candidate: what is
known of their beginning is copied, not computed.

Non-goals: sharing memory between sequences. A sequence owns its extent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from select_to_think.contexts.protocol import Context

WORTH_COPYING = 16  # tokens


class Space(Protocol):
    """Deals out the room of a key-value memory."""

    def take(self, tokens: int) -> tuple[int, int] | None:
        """(start, size) of room for at least `tokens` tokens, or None while there is none."""
        ...

    def give(self, start: int, size: int) -> None:
        """Take room back."""
        ...

    def capacity(self, tokens: int) -> int:
        """How many sequences of `tokens` tokens there is room for if nothing else is there."""
        ...


class PrefixCache:
    """The extents of one model's memory, those of ended contexts included."""

    def __init__(self, extents: Space, most_slots: int) -> None:
        """Keep ended contexts in at most `most_slots` slots; 0 keeps none."""
        self.extents, self.most_slots = extents, most_slots
        self.kept: dict[Context, None] = {}  # the longest unused first

    def take(self, tokens: int) -> tuple[int, int] | None:
        """(start, size) of an extent for `tokens` tokens; kept ones make room. None while there is none."""
        while (extent := self.extents.take(tokens)) is None and self.kept:
            self.drop(next(iter(self.kept)))
        return extent

    def keep(self, context: Context) -> None:
        """An ended context: kept if there is something to keep, in place of those whose tokens it begins with."""
        context.tokens = known = context.tokens[: context.stored]
        for other in alike(self.kept, context):
            if other.tokens == known[: len(other.tokens)]:
                self.drop(other)
        self.kept[context] = None
        if len(known) < WORTH_COPYING:
            self.drop(context)
        while sum(other.size for other in self.kept) > self.most_slots:
            self.drop(next(iter(self.kept)))

    def drop(self, context: Context) -> None:
        """Give a kept extent back."""
        del self.kept[context]
        self.extents.give(context.start, context.size)

    def longest(self, context: Context, live: Iterable[Context], limit: int) -> tuple[Context, int] | None:
        """The context that has most of the first `limit` tokens of `context` stored, and how many."""
        found = [
            (other, shared(other.tokens[: other.stored], context.tokens[:limit]))
            for other in (*alike(self.kept, context), *alike(live, context))
        ]
        source, length = max(found, key=lambda entry: entry[1], default=(context, 0))
        if length < WORTH_COPYING:
            return None
        if source in self.kept:  # used last
            del self.kept[source]
            self.kept[source] = None
        return source, length


def alike(others: Iterable[Context], context: Context) -> list[Context]:
    """Those of the same adapter whose first tokens are the same: of many contexts only these are looked at closely."""
    adapter, head = context.adapter, context.tokens[:WORTH_COPYING]
    return [other for other in others if other.tokens[:WORTH_COPYING] == head and other.adapter == adapter]


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two long sequences have in common at their beginning, by halving."""
    same, most = 0, min(len(one), len(other))
    while same < most:
        middle = (same + most + 1) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            most = middle - 1
    return same
