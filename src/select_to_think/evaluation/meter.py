"""One progress of many parts, so that a person sees when all of it will be done.

Non-goals: showing it (`cli/progress.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from select_to_think.structures import Progress


class Meter:
    """Parts that come one after the other, each worth so many units of the whole."""

    def __init__(self, weights: Mapping[Any, int], progress: Progress | None) -> None:
        """`weights`: of the parts, in their order."""
        self.weights, self.progress = weights, progress
        self.total = sum(weights.values())

    def part(self, name: Hashable) -> Progress:
        """The progress of one part; when it is done, so are those before it."""
        names = list(self.weights)
        before = sum(self.weights[other] for other in names[: names.index(name)])

        def advance(done: int, total: int) -> None:
            if self.progress:
                self.progress(before + self.weights[name] * done // max(1, total), self.total)

        return advance
