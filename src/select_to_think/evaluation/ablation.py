"""MentorCollab over a grid of consultation rates and segment lengths: accuracy, mentor share and time of every cell.

Every cell is an evaluation in a folder of its own, so a stopped run goes on where it stopped. At rate 0 the length
means nothing: one cell stands for all.

Non-goals: the plot (`analysis/ablation.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from select_to_think.config import EvalSettings
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.results import ResultRow
from select_to_think.evaluation.runner import evaluate
from select_to_think.methods import METHODS
from select_to_think.structures import Progress, S2TError

if TYPE_CHECKING:
    from select_to_think.session import Session


@dataclass(frozen=True)
class Cell:
    """One setting and its row over all domains."""

    consult_rate: float
    segment_tokens: int | None  # None: the mentor is never asked
    row: ResultRow


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
) -> list[Cell]:
    """Evaluate `method` in every cell, each in a folder of its own below `out`.

    `begun` is called once, when the first cell begins to decode; `progress` counts answers.

    `settings` hold for all cells, but for the mentor's rate and length, and for the baseline: there is one method.

    Raises:
        S2TError: a method without a mentor, a rate or a length out of range, and what `evaluate` refuses.
    """
    known = sorted(name for name, other in METHODS.items() if other.mentor)
    if method not in known:
        raise S2TError(f"only methods with a mentor have these settings: choose {', '.join(known)}")
    grid = [(rate, length) for rate in rates for length in (lengths if rate else (None,))]
    chosen = [replace(settings.mentor, consult_rate=rate, segment_tokens=length or 1) for rate, length in grid]
    cells = []
    for number, ((rate, length), mentor) in enumerate(zip(grid, chosen, strict=True)):

        def tick(done: int, total: int, before: int = number * len(items)) -> None:
            if progress:
                progress(before + done, len(grid) * len(items))

        folder = out / f"rate-{rate:g}-segment-{length or 0}"
        own = replace(settings, mentor=mentor, baseline=method)
        first = begun if number == 0 else None
        results = evaluate(session, items, [method], own, out=folder, begun=first, progress=tick)
        cells.append(Cell(rate, length, next(row for row in results.rows if row.domain == "all")))
    return cells
