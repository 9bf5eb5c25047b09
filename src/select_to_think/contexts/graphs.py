"""Steps of single tokens as CUDA graphs: recorded once for a number of rows and a span, then replayed.

A step is padded to a power of two with copies of its last token, which write and see what that one does. So one
recording serves many steps, and nothing that a row sees changes.

Non-goals: prompts, leaves and adapters (such steps run as they are), other devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from select_to_think.contexts.layout import Group, Step


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
        self.recordings: dict[tuple[int, int, int], Recording] = {}
        self.pool: Any = None  # memory that all recordings share: what one computes holds until the next

    def serves(self, step: Step) -> bool:
        """Whether a step can be replayed."""
        group = step.groups[0]
        return len(step.groups) == 1 and group.width == 1 and group.earlier is None and not step.adapters

    def run(self, step: Step) -> Tensor:
        """Hidden states (T, H) of a step that can; they hold until the next one."""
        rows, group = step.table.shape[1], step.groups[0]
        key = power_of_two(rows), group.size, min(group.size, power_of_two(group.span))
        table = torch.cat([step.table, step.table[:, -1:].expand(-1, key[0] - rows)], 1)
        if key not in self.recordings:

            def run() -> Tensor:
                return self.forward(single_tokens(table, *key[1:]))

            replay, states, self.pool = capture(run, table.device, self.pool)
            self.recordings[key] = Recording(table, states, replay)
        recording = self.recordings[key]
        recording.table.copy_(table)
        recording.replay()
        return recording.states[:rows]


def power_of_two(number: int) -> int:
    """The smallest one that is not below `number`."""
    return 1 << (number - 1).bit_length()


def single_tokens(table: Tensor, size: int, span: int) -> Step:
    """The step of a table (7, T) of single tokens over extents of one size, of which `span` slots are read."""
    count = table.shape[1]
    group = Group(
        begin=0,
        end=count,
        width=1,
        size=size,
        span=span,
        rows=table[2],
        causal=False,
        open=False,
        columns=table[3:, :, None],
        earlier=None,
    )
    return Step(table, [group], [], list(range(count)))


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
