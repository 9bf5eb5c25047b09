"""The engine: runs many policies at once, one batched call per model and step.

Each live row is a policy waiting for an answer. A step collects the pending requests, groups them by model, lets the
model's backend answer each group, and resumes the rows. Rows join and leave between steps, so continuous batching is
nothing extra.

Non-goals: knowing methods, tokens or models. Policies decide, backends compute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from select_to_think.contexts.protocol import Backend, Context
from select_to_think.structures import (
    Branch,
    Counts,
    Extend,
    Fork,
    Generation,
    Join,
    Labels,
    ModelUnavailable,
    Observation,
    PolicyRun,
    Request,
    Truncate,
)

R = TypeVar("R", Generation, Labels)
MEASURED = ("slm_tokens_processed", "slm_forwards", "llm_tokens_processed", "llm_forwards")  # policies count the rest


@dataclass(slots=True, eq=False)
class Row:
    """One running policy: its contexts, the request it waits for, and its place in a family."""

    key: int
    policy: Generator[Request, Any, Any]
    parent: Row | None = None
    contexts: dict[str, Context] = field(default_factory=dict)
    waiting: Extend | Branch | None = None
    joining: bool = False
    children: list[Row] = field(default_factory=list)
    finished_children: deque[Generation] = field(default_factory=deque)
    spent: Counts = field(default_factory=Counts)  # by children


class Engine:
    """Drives policies over backends."""

    def __init__(self, backends: Mapping[str, Backend], max_rows: int) -> None:
        """Serve policies that name the models in `backends`, at most `max_rows` at a time (children not counted)."""
        self.backends = backends
        self.max_rows = max_rows
        self.live: list[Row] = []
        self.finished: list[tuple[int, Any]] = []

    def run(self, policies: Iterable[tuple[int, Generator[Request, Any, R]]]) -> Iterator[tuple[int, R]]:
        """Run every (key, policy) and yield (key, result) as they finish; `policies` is read lazily."""
        source = iter(policies)
        try:
            while True:
                self.admit(source)
                yield from self.finished
                self.finished.clear()
                if not self.live:
                    return
                self.step()
        finally:
            while self.live:
                self.leave(self.live[-1])

    def admit(self, source: Iterator[tuple[int, Generator[Request, Any, Any]]]) -> None:
        """Let new rows join while there is room."""
        while sum(row.parent is None for row in self.live) < self.max_rows:
            entry = next(source, None)
            if entry is None:
                return
            row = Row(*entry)
            self.live.append(row)
            self.advance(row, None)

    def step(self) -> None:
        """One batched call per model, then every answered row goes on."""
        waiting = [(row, row.waiting) for row in self.live if row.waiting is not None]
        for name, backend in self.backends.items():
            group = [(row, request) for row, request in waiting if request.model == name]
            if not group:
                continue
            answers = backend.run([(self.context(row, name), request) for row, request in group])
            for (row, _), answer in zip(group, answers, strict=True):
                if row.waiting is not None:  # else its family ended meanwhile
                    row.waiting = None
                    self.advance(row, answer)

    def advance(self, row: Row, answer: Observation | Generation | ModelUnavailable | None) -> None:
        """Resume a policy until it needs a forward, waits for a child, or ends."""
        reply: Any = answer
        while True:
            try:
                request = row.policy.throw(reply) if isinstance(reply, ModelUnavailable) else row.policy.send(reply)
            except StopIteration as end:
                self.finish(row, end.value)
                return
            reply = None
            if isinstance(request, Join) and row.finished_children:
                reply = row.finished_children.popleft()
            elif not self.settle(row, request):
                return

    def settle(self, row: Row, request: Request) -> bool:
        """Do what needs no forward and return True; otherwise leave the row waiting."""
        match request:
            case Extend(observe=None):
                self.context(row, request.model).append(request.tokens)
            case Extend() | Branch():
                row.waiting = request
                return False
            case Truncate():
                self.context(row, request.model).truncate(request.length)
            case Fork():
                self.fork(row, request.children)
            case Join():
                if not row.children:
                    raise RuntimeError("join without running children")
                row.joining = True
                return False
        return True

    def context(self, row: Row, model: str) -> Context:
        """The row's context in `model`, opened at first use."""
        if model not in row.contexts:
            row.contexts[model] = self.backends[model].open()
        return row.contexts[model]

    def fork(self, parent: Row, policies: Iterable[PolicyRun]) -> None:
        """Start children on copies of the parent's contexts."""
        children = [Row(parent.key, policy, parent) for policy in policies]
        for child in children:
            for model, context in parent.contexts.items():
                child.contexts[model] = self.backends[model].open(context)
        parent.children.extend(children)
        self.live.extend(children)
        for child in children:
            self.advance(child, None)

    def finish(self, row: Row, result: Any) -> None:
        """Hand the result to the parent or to the caller, and free the row."""
        for child in list(row.children):
            self.leave(child)
        if isinstance(result, Generation):
            cost = self.cost(row)
            measured = {name: getattr(cost, name) for name in MEASURED}
            result = replace(result, counts=replace(result.counts, **measured))
        self.leave(row)
        parent = row.parent
        if parent is None:
            self.finished.append((row.key, result))
            return
        parent.finished_children.append(result)
        if parent.joining:
            parent.joining = False
            self.advance(parent, parent.finished_children.popleft())

    def leave(self, row: Row) -> None:
        """Stop the row's children, close its contexts, charge what it spent to its parent."""
        for child in list(row.children):
            self.leave(child)
        if row.parent is not None:
            row.parent.children.remove(row)
            row.parent.spent.add(self.cost(row))
        self.live.remove(row)
        row.waiting = None
        row.policy.close()
        for model, context in row.contexts.items():
            self.backends[model].close(context)

    def cost(self, row: Row) -> Counts:
        """Tokens and forwards of the row's contexts and of its children that left."""
        counts = Counts()
        counts.add(row.spent)
        for model, context in row.contexts.items():
            if model == "llm":
                counts.llm_tokens_processed += context.tokens_processed
                counts.llm_forwards += context.forwards
            else:
                counts.slm_tokens_processed += context.tokens_processed
                counts.slm_forwards += context.forwards
        return counts
