"""Steps of single tokens as CUDA graphs: recorded once for numbers of rows and spans, then replayed.

Each group of a step, rows over extents of one size, is padded to a power of two with copies of its last token, which
write and see what that one does. So one recording serves many steps, and nothing that a row sees changes. An adapter
may act on all of a step's tokens.

Non-goals: prompts, leaves and adapters of some rows (such steps run as they are), other devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from select_to_think.contexts.layout import Group, Step

MOST_RECORDINGS = 256  # steps of other shapes then run as they are
Shape = tuple[int, int, int]  # of a group: its rows, the size of their extents, the slots that are read


@dataclass(frozen=True)
class Recording:
    """A forward whose inputs and outputs stay where they are."""

    table: Tensor  # (7, T)
    states: Tensor  # (T, H)
    replay: Callable[[], None]


class Graphs:
    """The recordings of one model over one memory."""

    def __init__(self, forward: Callable[[Step], Tensor]) -> None:
        """Nothing is recorded yet; `forward` gives the hidden states (T, H) of a step."""
        self.forward = forward
        self.recordings: dict[tuple[tuple[Shape, ...], str | None], Recording] = {}
        self.pool: Any = None  # memory that all recordings share: what one computes holds until the next

    def serves(self, step: Step) -> bool:
        """Whether a step can be replayed."""
        if any(group.width != 1 or group.earlier is not None for group in step.groups):
            return False
        if step.adapters and step.adapters[0][1:] != (0, step.table.shape[1]):
            return False
        return len(self.recordings) < MOST_RECORDINGS or key_of(step) in self.recordings

    def run(self, step: Step) -> Tensor:
        """Hidden states (T, H) of a step that can; they hold until the next one."""
        shapes, adapter = key = key_of(step)
        table = padded(step, shapes)
        if key not in self.recordings:

            def run() -> Tensor:
                return self.forward(single_tokens(table, shapes, adapter))

            replay, states, self.pool = capture(run, table.device, self.pool)
            self.recordings[key] = Recording(table, states, replay)
        recording = self.recordings[key]
        recording.table.copy_(table)
        recording.replay()
        begins = accumulate((rows for rows, _, _ in shapes), initial=0)
        found = [
            recording.states[begin : begin + group.end - group.begin]
            for begin, group in zip(begins, step.groups, strict=False)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)


def key_of(step: Step) -> tuple[tuple[Shape, ...], str | None]:
    """The shapes of a step's groups once they are padded, and the adapter that acts on all of them."""
    shapes = tuple(
        (power_of_two(group.end - group.begin), group.size, min(group.size, power_of_two(group.span)))
        for group in step.groups
    )
    return shapes, step.adapters[0][0] if step.adapters else None


def padded(step: Step, shapes: Sequence[Shape]) -> Tensor:
    """The table (7, T) of a step whose groups have as many rows as `shapes` say."""
    table, pieces = step.table, []
    for group, (rows, _, _) in zip(step.groups, shapes, strict=True):
        last = table[:, group.end - 1 : group.end]
        pieces += [table[:, group.begin : group.end], last.expand(-1, rows - group.end + group.begin)]
    return torch.cat(pieces, 1)


def power_of_two(number: int) -> int:
    """The smallest one that is not below `number`."""
    return 1 << (number - 1).bit_length()


def single_tokens(table: Tensor, shapes: Sequence[Shape], adapter: str | None) -> Step:
    """The step of a table (7, T) of single tokens in groups of these shapes, all under one adapter or none."""
    groups: list[Group] = []
    for rows, size, span in shapes:
        begin = groups[-1].end if groups else 0
        group = Group(
            begin=begin,
            end=begin + rows,
            width=1,
            size=size,
            span=span,
            rows=table[2, begin : begin + rows],
            causal=False,
            open=False,
            columns=table[3:, begin : begin + rows, None],
            earlier=None,
        )
        groups.append(group)
    count = table.shape[1]
    return Step(table, groups, [] if adapter is None else [(adapter, 0, count)], list(range(count)))


def capture(run: Callable[[], Tensor], device: torch.device, pool: Any) -> tuple[Callable[[], None], Tensor, Any]:
    """Record what `run` does on a device, in the memory `pool` of earlier recordings, if there are some.

    Returns:
        What does it again, where its result then stands, and the memory.
    """
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run()  # libraries set themselves up in their first call
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            states = run()
    return graph.replay, states, graph.pool()
