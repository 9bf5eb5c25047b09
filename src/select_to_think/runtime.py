"""The runtime: many policies at once, of any methods, one forward of a model a step.

A policy waits for an answer, or it has ended. A step lets rows that fit join, makes one forward of the cheapest model
that somebody waits for, and resumes who was answered. A dear model is asked when no row can go on without it, or when
those who wait for it have waited as long as its forward is worth, and then for all at once.

What is asked of a model elsewhere is sent at once, and nobody waits for it while there is something else to compute.

Non-goals: knowing methods or tokens. Policies decide, backends compute, and whoever adds a run reads its events.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from threading import Event as Signal
from typing import Any

from select_to_think.config import RuntimeConfig
from select_to_think.contexts.protocol import Account, Ask, Backend, Context
from select_to_think.runs import Committed, Event, Failed, Finished, Row, Run
from select_to_think.structures import (
    Adopt,
    Branch,
    Collect,
    Commit,
    Counts,
    Extend,
    Fork,
    Generation,
    Join,
    PolicyRun,
    Requests,
    S2TError,
    Submit,
    Truncate,
)

WAITING = object()  # in place of a reply: there is none yet
WRITERS = ("slm", "llm")  # a verifier is asked about another text, under no bias
PATIENCE_S = 0.02  # how long a step waits for any answer from elsewhere where nothing else is to be done


class Runtime:
    """Drives policies over backends for as long as it is stepped."""

    def __init__(self, backends: Mapping[str, Backend], config: RuntimeConfig = RuntimeConfig()) -> None:
        """Serve policies whose roles name these backends; more may be put in as time goes on, by other threads too."""
        self.backends, self.config = backends, config
        self.queue: deque[Row] = deque()
        self.live: list[Row] = []
        self.events: list[Event] = []
        self.arrival = Signal()  # an answer has come from elsewhere
        self.steps = 0

    def add(self, key: Hashable, run: Run) -> None:
        """Let a run join as soon as there is memory for it; one that can never fit fails at once."""
        needed = Counter(role.backend for role in run.roles.values())
        for name, contexts in needed.items():
            backend, contexts = self.backends[name], contexts * (1 + run.copies)
            if contexts > backend.capacity(run.tokens):
                remedy = "raise kv_memory_gib, or lower max_new_tokens or candidates"
                if contexts > (most := backend.capacity(1)):
                    remedy = f"it holds {most} of any length, ask for fewer at once"
                wanted = f"{contexts} sequences of {run.tokens} tokens"
                error = S2TError(f"{wanted} do not fit the key-value memory of {name}: {remedy}")
                self.events.append(Failed(key, error))
                return
        self.queue.append(Row(key, run))

    def cancel(self, key: Hashable) -> None:
        """Drop a run and its children; nothing that it asked is computed any more."""
        self.queue = deque(row for row in self.queue if row.key != key)
        for row in [row for row in self.live if row.key == key and row.parent is None]:
            self.leave(row)

    def step(self) -> list[Event]:
        """One forward for those who wait; what came of it. Nothing waits if nothing comes and nobody is `busy`."""
        self.steps += 1
        self.admit()
        away = [backend for backend in self.present if backend.remote and backend.waiting]
        if away:
            if not (self.events or self.wanted()):
                self.arrival.wait(PATIENCE_S)
            self.arrival.clear()
        for backend in away:
            for ask in backend.step():
                self.answer(ask)
        for backend in self.due():
            for ask in backend.step():
                self.answer(ask)
        events, self.events = self.events, []
        return events

    @property
    def present(self) -> list[Backend]:
        """The backends that are there now, while another thread may put one in."""
        return list(self.backends.values())

    @property
    def busy(self) -> bool:
        """Whether a run has not ended yet."""
        return bool(self.live or self.queue or self.events)

    def wanted(self) -> list[Backend]:
        """The models in process that are waited for, the cheapest first."""
        waited = [backend for backend in self.present if backend.waiting and not backend.remote]
        return sorted(waited, key=lambda backend: backend.cost)

    def rows_away(self) -> set[Row]:
        """The rows that wait for an answer from elsewhere."""
        away = [backend for backend in self.present if backend.remote]
        return {ask.row for backend in away for ask in backend.waiting if ask.row is not None}

    def due(self) -> list[Backend]:
        """The cheapest model that is waited for, and dearer ones that are worth their forward by now.

        A dear forward is worth it when its rows together have waited as long as it would hold up all rows: its cost in
        cheap steps, times the rows. Nobody waits longer than `max_wait_steps`.
        """
        wanted = self.wanted()
        found = wanted[:1]
        for backend in wanted[1:]:
            waits = [self.steps - ask.since for ask in backend.waiting]
            price = backend.cost / wanted[0].cost * len(self.live)
            if sum(waits) >= price or max(waits) >= self.config.max_wait_steps:
                found.append(backend)
        return found

    def admit(self) -> None:
        """Let rows join, in order, while there is memory for them."""
        while self.queue and self.furnish(self.queue[0]):
            row = self.queue.popleft()
            self.live.append(row)
            self.advance(row, None)

    def furnish(self, row: Row) -> bool:
        """Open all contexts of a row and of its children, or none and return False."""
        opened: list[dict[str, Context]] = []
        try:
            for _ in range(1 + row.run.copies):
                opened.append({})
                for name, role in row.run.roles.items():
                    context = self.backends[role.backend].open(row.run.tokens, role.adapter)
                    if context is None:
                        return False
                    opened[-1][name] = context
            self.settle_in(row, opened[0])
            row.spares, opened = opened[1:], []
            return True
        finally:
            for contexts in opened:
                self.close(row, contexts)

    def settle_in(self, row: Row, contexts: dict[str, Context]) -> None:
        """Give a row its contexts; those of one backend share an account."""
        row.contexts = contexts
        for name, context in contexts.items():
            context.account = row.accounts.setdefault(row.run.roles[name].backend, Account())

    def close(self, row: Row, contexts: Mapping[str, Context]) -> None:
        """Give contexts back."""
        for name, context in contexts.items():
            self.backends[row.run.roles[name].backend].close(context)

    def answer(self, ask: Ask) -> None:
        """Resume the row that asked, once all that it asked is answered."""
        row: Row | None = ask.row
        if row is None:
            return
        ask.row = None
        reply: Any = ask.answer
        if ask in row.submitted:
            if not row.collecting or ask is not row.submitted[0]:
                return
            row.collecting = False
            row.submitted.popleft()
        elif row.several:
            if any(other.row is not None for other in row.asks):
                return
            answers = [other.answer for other in row.asks]
            reply = next((answer for answer in answers if isinstance(answer, Exception)), answers)
        row.asks = []
        self.advance(row, reply)

    def advance(self, row: Row, reply: Any) -> None:
        """Resume a policy until it needs a forward, waits for a child, or ends. What it raises is the row's own."""
        try:
            while not row.ended:
                request = row.run.policy.throw(reply) if isinstance(reply, Exception) else row.run.policy.send(reply)
                reply = self.settle(row, request)
                if reply is WAITING:
                    return
        except StopIteration as end:
            self.finish(row, end.value)
        except Exception as error:
            root = row.root
            self.leave(root)
            self.events.append(Failed(root.key, error))

    def settle(self, row: Row, request: Requests) -> Any:
        """Do what needs no forward and return the reply; otherwise let the row wait, and return `WAITING`."""
        match request:
            case Commit():
                if row.parent is None and row.run.told:
                    self.events.append(Committed(row.key, request.steps))
            case Extend(observe=None):
                row.contexts[request.model].append(request.tokens)
            case Extend() | Branch():
                row.asks, row.several = [self.submit(row, request)], False
                return WAITING
            case tuple():
                row.several = True
                for single in request:
                    row.asks.append(self.submit(row, single))
                return WAITING
            case Truncate():
                row.contexts[request.model].truncate(request.length)
            case Adopt():
                self.backends[row.run.roles[request.model].backend].adopt(row.contexts[request.model], request.leaf)
            case Submit():
                row.submitted.append(self.submit(row, request.request))
            case Collect():
                if row.submitted and row.submitted[0].row is None:
                    return row.submitted.popleft().answer
                row.collecting = request.wait or len(self.live) > 1  # who is not alone would hold up others
                return WAITING if row.collecting else None
            case Fork():
                self.fork(row, request.children)
            case Join():
                if row.finished_children:
                    return row.finished_children.popleft()
                if not row.children:
                    raise RuntimeError("join without running children")
                row.joining = True
                return WAITING
            case _:
                raise TypeError(f"{request!r} is no request")
        return None

    def submit(self, row: Row, request: Extend | Branch) -> Ask:
        """Ask the backend of a role."""
        roles, adapter, bias = row.run.roles, None, row.run.bias
        if bias and request.model in WRITERS and request.observe is not None:
            request = replace(request, observe=replace(request.observe, bias=bias))
        if isinstance(request, Branch) and request.adapter:
            adapter = roles[request.adapter].adapter
        ask = Ask(row.contexts[request.model], request, adapter, self.arrival, row, self.steps)
        self.backends[roles[request.model].backend].submit(ask)
        return ask

    def fork(self, parent: Row, policies: Iterable[PolicyRun]) -> None:
        """Start children on copies of the parent's contexts."""
        children = [Row(parent.key, replace(parent.run, policy=policy), parent) for policy in policies]
        if len(children) > len(parent.spares):
            raise RuntimeError(f"{len(children)} children where {len(parent.spares)} were announced")
        for child in children:
            self.settle_in(child, parent.spares.pop())
            parent.children.append(child)
            self.live.append(child)
            for name, context in parent.contexts.items():
                self.backends[parent.run.roles[name].backend].copy(context, child.contexts[name])
        for child in children:
            if not child.ended:
                self.advance(child, None)

    def finish(self, row: Row, result: Any) -> None:
        """Hand the result to the parent or to the caller, and free the row."""
        for child in list(row.children):
            self.leave(child)
        if isinstance(result, Generation):
            counts = row.cost()
            counts.add(result.counts)
            result = replace(result, counts=counts)
        self.leave(row)
        parent = row.parent
        if parent is None:
            self.events.append(Finished(row.key, result))
            return
        parent.finished_children.append(replace(result, counts=Counts()))
        if parent.joining:
            parent.joining = False
            self.advance(parent, parent.finished_children.popleft())

    def leave(self, row: Row) -> None:
        """Stop the row's children, close its contexts, charge what it spent to its parent."""
        for child in list(row.children):
            self.leave(child)
        if row.parent is not None:
            row.parent.children.remove(row)
            row.parent.spent.add(row.cost())
        self.live.remove(row)
        row.ended = True
        for ask in (*row.asks, *row.submitted):
            ask.row = None
        row.asks, row.submitted = [], deque()
        with suppress(Exception):  # of a policy that was stopped, on its way out
            row.run.policy.close()
        for contexts in (row.contexts, *row.spares):
            self.close(row, contexts)
