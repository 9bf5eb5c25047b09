"""Contexts in process: what waits at one set of weights, what goes into its next forward, and who is answered.

A step takes what all waiting requests need: prompts (long ones in pieces, behind everything short), single tokens,
drafts, leaves. How it is computed, and where keys and values lie, is the backend's own.

Non-goals: deciding anything; see `policies/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain
from typing import Protocol

import torch
from torch import Tensor

from select_to_think.config import RuntimeConfig
from select_to_think.contexts.layout import Segment
from select_to_think.contexts.observing import NOT_A_NUMBER, Look, joined
from select_to_think.contexts.prefix_cache import PrefixCache, Space
from select_to_think.contexts.protocol import Ask, Context
from select_to_think.models.adapter import Adapter
from select_to_think.structures import Branch, Extend, Observation, S2TError

SHORT = 64  # tokens; requests up to this length never wait for the long ones


@dataclass
class Plan:
    """One forward: its segments, whose they are, and what is observed."""

    segments: list[Segment] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    tokens: int = 0
    short: int = 0  # tokens of the whole step without those of long requests

    def add(self, context: Context, segment: Segment) -> None:
        """Let a segment take part."""
        self.segments.append(segment)
        self.contexts.append(context)
        self.tokens += len(segment.tokens)

    def look(self, ask: Ask, lines: Sequence[int], first: int = 0, last: bool = True) -> None:
        """Let a request observe tokens of the segment that was added last."""
        observe, adapter = ask.request.observe, self.segments[-1].adapter
        assert observe is not None
        self.parts.append(Part(observe, lines, adapter, first, ask, len(self.segments) - 1, last))


@dataclass(slots=True)
class Part(Look):
    """What one forward does for a request: the tokens that it observes, and whether these are the last."""

    ask: Ask
    segment: int  # index of the segment in which the lines are counted
    last: bool


class Memory(Protocol):
    """Where keys and values lie; `start` is what the space gave for a sequence."""

    def copy(self, source: int, target: int, count: int) -> None:
        """Let `target` hold the first `count` tokens of `source`."""
        ...

    def clear(self, start: int, count: int) -> None:
        """Forget what may not be a number."""
        ...


class LocalBackend(ABC):
    """One model, many contexts, one key-value memory."""

    remote = False
    keeps_leaves = False  # a branch computes only what its leaves add to those of earlier branches

    extents: Space  # deals out the room ...
    memory: Memory  # ... of this

    def __init__(self, forbidden: Tensor, config: RuntimeConfig, cost: float) -> None:
        """No contexts yet; ids in `forbidden` have probability zero."""
        self.forbidden = forbidden
        self.config, self.cost, self.forwards = config, cost, 0
        self.adapters: set[str] = set()
        self.bin_rows: dict[str, Tensor] = {}
        self.live: dict[Context, None] = {}
        self.waiting: list[Ask] = []

    @cached_property
    def prefixes(self) -> PrefixCache:
        """What is kept of contexts that have ended."""
        return PrefixCache(self.extents, self.config.prefix_cache_tokens)

    def take_memory(self) -> None:
        """Take the memory for keys and values now, and not when the first context needs it."""
        _ = self.prefixes

    @abstractmethod
    def load(self, name: str, adapter: Adapter) -> None:
        """Make a LoRA known to the model under a name."""

    @abstractmethod
    def adopt(self, context: Context, leaf: int) -> None:
        """Let the context go on with a leaf of its last branch. No forward."""

    @abstractmethod
    def shown(self, plan: Plan, ask: Ask, request: Branch) -> bool:
        """Whether a branch takes part in this step; one that may be left out may be answered with nothing."""

    @abstractmethod
    def compute(self, plan: Plan) -> tuple[list[Observation | S2TError], list[Context]]:
        """Run the plan: what each of its parts observed, and the contexts whose numbers are no numbers."""

    def add_adapter(self, name: str, adapter: Adapter, bin_rows: Tensor | None = None) -> None:
        """Let contexts name this LoRA; `bin_rows` (bins, hidden_size) are its score rows, for `Observe.bins`."""
        self.load(name, adapter)
        self.adapters.add(name)
        if bin_rows is not None:
            self.bin_rows[name] = bin_rows.to(self.forbidden.device)

    def open(self, tokens: int, adapter: str | None = None) -> Context | None:
        """An empty context with room for `tokens` tokens, or None while there is no memory for it."""
        extent = self.prefixes.take(tokens)
        if extent is None:
            return None
        context = Context(*extent, adapter=adapter)
        self.live[context] = None
        return context

    def capacity(self, tokens: int) -> int:
        """How many contexts of `tokens` tokens there is memory for."""
        return self.extents.capacity(tokens)

    @torch.inference_mode()
    def copy(self, source: Context, target: Context) -> None:
        """Give `target` the tokens of `source`."""
        self.reserve(target, source.stored)
        self.memory.copy(source.start, target.start, source.stored)
        target.stored, target.tokens = source.stored, list(source.tokens)
        target.forget_leaves()

    def close(self, context: Context) -> None:
        """Give the room back, or keep it for others that begin alike."""
        del self.live[context]
        self.prefixes.keep(context)
        self.waiting = [ask for ask in self.waiting if ask.context is not context]

    def reserve(self, context: Context, tokens: int) -> None:
        """Make sure that the context has room for `tokens` tokens; a larger extent takes over what is stored.

        Raises:
            S2TError: there is no memory for it.
        """
        if tokens <= context.size:
            return
        extent = self.prefixes.take(tokens)
        if extent is None:
            raise S2TError("the key-value memory is full: raise kv_memory_gib or lower max_batch")
        self.memory.copy(context.start, extent[0], context.stored)
        self.extents.give(context.start, context.size)
        context.start, context.size = extent

    def submit(self, ask: Ask) -> None:
        """Queue a request."""
        request, context = ask.request, ask.context
        if isinstance(request, Extend):
            context.append(request.tokens)
            ask.end = len(context.tokens)
            if request.observe is None or ask.end == context.stored:
                raise RuntimeError("nothing new to observe")
            ask.first = ask.end - (max(1, len(request.tokens)) if request.observe.every else 1)
        elif not (request.continuations and all(request.continuations)):
            raise RuntimeError("a branch has leaves, of at least one token each")
        self.waiting.append(ask)

    @torch.inference_mode()
    def step(self) -> list[Ask]:
        """One forward for what waits; the requests that are answered now.

        What goes wrong in it (memory, mostly) is the answer to everything that took part.
        """
        by_context: dict[Context, list[Ask]] = {}
        for ask in self.waiting:
            by_context.setdefault(ask.context, []).append(ask)
        if self.config.prefix_cache_tokens:
            for context, asks in by_context.items():
                if not context.stored:
                    self.reuse(context, asks)
        counts = {context: context.pending for context in by_context}
        plan = Plan(short=sum(count for count in counts.values() if count <= SHORT))
        for context, count in counts.items():
            if count <= SHORT:
                self.plan(plan, context, by_context[context], count)
        most = SHORT  # tokens of the first long request, however many short ones there are
        for context, count in counts.items():
            if count > SHORT and (piece := min(count, max(most, self.config.max_step_tokens - plan.tokens))):
                self.plan(plan, context, by_context[context], piece)
                most = 0
        if plan.segments:
            try:
                self.forward(plan)
            except Exception as error:
                for context in plan.contexts:
                    context.forget_leaves()
                self.fail(plan.contexts, error)
        answered = [ask for ask in self.waiting if ask.answer is not None]
        self.waiting = [ask for ask in self.waiting if ask.answer is None]
        return answered

    def reuse(self, context: Context, asks: Sequence[Ask]) -> None:
        """Copy what is known of a context's beginning, up to the first token that is asked about."""
        unseen = [ask.first for ask in asks if isinstance(ask.request, Extend)]
        found = self.prefixes.longest(context, self.live, min(unseen, default=len(context)))
        if found is not None:
            source, length = found
            length = min(length, context.size)  # a larger extent could take the place of the source
            self.memory.copy(source.start, context.start, length)
            context.stored = length
            context.account.tokens_cached += length

    def plan(self, plan: Plan, context: Context, asks: Sequence[Ask], count: int) -> None:
        """Take the first `count` pending tokens of a context into the forward and, if these are all, its leaves."""
        stored, behind = context.stored, context.stored + count
        branches = [
            (ask, request, context.earlier(request, ask.adapter))
            for ask in asks
            if isinstance(request := ask.request, Branch)
            and behind == len(context.tokens)
            and self.shown(plan, ask, request)
        ]
        slot, new = behind, 0
        if branches:
            width = sum(request.width for _, request, _ in branches)
            slot, new = context.end_of_leaves(), width - sum(len(slots) for *_, known in branches for slots in known)
            if slot + new > context.size:
                context.forget_leaves()
                branches = [(ask, request, [()] * len(known)) for ask, request, known in branches]
                slot, new = behind, width
        try:
            self.reserve(context, slot + new)
        except S2TError as error:
            for ask in asks:
                ask.answer = error
            return
        if count:
            tokens = context.tokens[stored:behind]
            plan.add(context, Segment(context.start, context.size, stored, stored, tokens, (), context.adapter))
            for ask in asks:
                first, end = max(stored, ask.first), min(behind, ask.end)
                if first < end:
                    plan.look(ask, range(first - stored, end - stored), first - ask.first, end == ask.end)
        context.leaves = ()
        for ask, request, known in branches:
            slot = self.plan_leaves(plan, ask, request, known, slot)

    def plan_leaves(self, plan: Plan, ask: Ask, request: Branch, known: list[tuple[int, ...]], slot: int) -> int:
        """Take what is not `known` of the leaves of a branch into the forward, at `slot`; where they end."""
        context, new = ask.context, [leaf[len(k) :] for leaf, k in zip(request.continuations, known, strict=True)]
        lengths = tuple(map(len, new))
        ends = list(accumulate(lengths))
        tokens, adapter = list(chain.from_iterable(new)), ask.adapter or context.adapter
        place = context.start, context.size, len(context.tokens), slot
        plan.add(context, Segment(*place, tokens, lengths, adapter, tuple(known)))
        plan.look(ask, [end - 1 for end in ends])
        if ask.adapter is None:
            context.leaves = request.continuations
        if ask.adapter is None and self.keeps_leaves:
            for leaf, slots, length, end in zip(request.continuations, known, lengths, ends, strict=True):
                context.grown[tuple(leaf)] = (*slots, *range(slot + end - length, slot + end))
        return slot + ends[-1]

    def forward(self, plan: Plan) -> None:
        """Run the plan, store what was computed, and answer."""
        found, wrong = self.compute(plan)
        self.forwards += 1
        for context, segment in zip(plan.contexts, plan.segments, strict=True):
            account, width = context.account, len(segment.tokens)
            if not segment.leaves:
                context.stored += width
            account.tokens_processed += width
            account.forwards += account.last_forward != self.forwards
            account.last_forward = self.forwards
        if wrong:
            for context in wrong:  # the next owner might read it
                self.memory.clear(context.start, context.size)
                context.stored = 0
                context.forget_leaves()
            self.fail(wrong, S2TError(NOT_A_NUMBER))
        for part, observation in zip(plan.parts, found, strict=True):
            ask = part.ask
            if isinstance(observation, Exception):
                ask.answer = observation
            elif ask.answer is None:
                if not part.last:
                    ask.pieces += (observation,)
                else:
                    ask.answer = joined((*ask.pieces, observation)) if ask.pieces else observation

    def fail(self, contexts: Sequence[Context], error: Exception) -> None:
        """Answer all that is asked about these contexts with an error."""
        for ask in self.waiting:
            if ask.context in contexts:
                ask.answer = error
