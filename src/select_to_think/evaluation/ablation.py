"""MentorCollab over a grid of consultation rates and segment lengths: accuracy, mentor share and time of every cell.

Every cell is an evaluation in a folder of its own, so a stopped run goes on where it stopped. At rate 0 the length
means nothing: one cell stands for all.

Non-goals: the plot (`analysis/figures.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from select_to_think.config import EvalSettings
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.meter import Meter
from select_to_think.evaluation.results import ResultRow
from select_to_think.evaluation.runner import evaluate
from select_to_think.methods import METHODS
from select_to_think.structures import Progress, S2TError

if TYPE_CHECKING:
    from select_to_think.session import Session


Cell = tuple[float, int | None]  # consultation rate, segment length; None where the mentor is never asked


def ablate(
    session: Session,
    items: Sequence[Item],
    method: str,
    settings: EvalSettings,
    out: Path,
    *,
    rates: Sequence[float],
    lengths: Sequence[int],
    begun: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> dict[Cell, ResultRow]:
    """Evaluate `method` in every cell, each in a folder of its own below `out`; the rows over all domains.

    `begun` is called once, when the first cell begins to decode; `progress` counts answers.

    `settings` hold for all cells, but for the mentor's rate and length, and for the baseline: there is one method.

    Raises:
        S2TError: a method without a mentor, a rate or a length out of range, and what `evaluate` refuses.
    """
    known = sorted(name for name, other in METHODS.items() if other.mentor)
    if method not in known:
        raise S2TError(f"only methods with a mentor have these settings: choose {', '.join(known)}")
    grid = [(rate, length) for rate in rates for length in (lengths if rate else (None,))]
    chosen = {
        cell: replace(settings.mentor, consult_rate=cell[0], segment_tokens=1 if cell[1] is None else cell[1])
        for cell in grid
    }
    meter = Meter(dict.fromkeys(grid, len(items)), progress)
    found: dict[Cell, ResultRow] = {}
    for (rate, length), mentor in chosen.items():
        folder = out / f"rate-{rate:g}-segment-{length or 0}"
        own, part = replace(settings, mentor=mentor, baseline=method), meter.part((rate, length))
        first = None if found else begun
        rows = evaluate(session, items, [method], own, out=folder, begun=first, progress=part).rows
        found[rate, length] = next(row for row in rows if (row.method, row.domain) == (method, "all"))
    return found
