"""The parts of a chart: scales with round ticks, intervals, labels that keep out of each other's way.

Non-goals: a plotting library. `charts.py` says what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from select_to_think.analysis.markup import Html, element

CHARACTER = 6.6  # width of a character at the charts' 12 px type, px
LINE = 14.0  # height of a line of labels, px


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to pixels [start, end], linearly, by the logarithm or by the square root."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False
    root: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of `value`."""
        warp = math.log if self.logarithmic else math.sqrt if self.root else float
        low, high, at = warp(self.low), warp(self.high), warp(value)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values inside the scale: 4 to 8 of them, 1-2-5 within decades on a scale that is not linear."""
        if self.root:
            return [0.0, *Scale(self.high / 200, self.high, 0, 1, logarithmic=True).ticks()]
        if not self.logarithmic:
            step = round_step((self.high - self.low) / 5)
            first = math.ceil(self.low / step - 1e-9)
            return [step * index for index in range(first, math.floor(self.high / step + 1e-9) + 1)]
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        marks = [digit * 10.0**exponent for exponent in exponents for digit in (1, 2, 5)]
        return [mark for mark in marks if self.low * (1 - 1e-9) <= mark <= self.high * (1 + 1e-9)]


def round_step(width: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `width`."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= width * (1 - 1e-9))


def covering(values: Sequence[float], start: float, end: float, *, root: bool = False) -> Scale:
    """A scale for costs: logarithmic if all are positive and spread tenfold to a millionfold, else linear from zero.

    `root`: from zero by the square root, which keeps small shares apart.
    """
    low, high = min(values), max(values)
    if root:
        return Scale(0.0, high * 1.08 or 1.0, start, end, root=True)
    if low > 0 and 10 * low <= high <= 1e6 * low:
        return Scale(low / 1.5, high * 1.5, start, end, logarithmic=True)
    return Scale(0.0, high * 1.08 or 1.0, start, end)


@dataclass
class Labels:
    """Places labels beside points, greedily, without overlapping what is already there."""

    width: float
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)

    def occupy(self, x: float, y: float, radius: float) -> None:
        """Keep labels off a mark."""
        self.boxes.append((x - radius, y - radius, x + radius, y + radius))

    def place(self, x: float, y: float, label: str) -> Html:
        """A `<text>` near (x, y): right, left, above or below, where it is free; otherwise right."""
        length, gap = CHARACTER * len(label), 9.0
        options = [
            (x + gap, y + 4, "start"),
            (x - gap, y + 4, "end"),
            (x, y - gap, "middle"),
            (x, y + gap + 9, "middle"),
            (x + gap, y - gap, "start"),
            (x + gap, y + gap + 8, "start"),
            (x - gap, y - gap, "end"),
            (x - gap, y + gap + 8, "end"),
        ]
        chosen = next((option for option in options if self._free(option, length)), options[0])
        self.boxes.append(self._box(chosen, length))
        left, base, anchor = chosen
        return element("text", label, x=f"{left:.1f}", y=f"{base:.1f}", text_anchor=anchor, class_="label")

    def _box(self, option: tuple[float, float, str], length: float) -> tuple[float, float, float, float]:
        x, base, anchor = option
        left = x - {"start": 0.0, "middle": length / 2, "end": length}[anchor]
        return left, base - LINE + 3, left + length, base + 3

    def _free(self, option: tuple[float, float, str], length: float) -> bool:
        left, top, right, bottom = self._box(option, length)
        if left < 0 or right > self.width:
            return False
        return all(right < a or left > c or bottom < b or top > d for a, b, c, d in self.boxes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    """A straight line."""
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=class_)


def interval(x: float, low: float, high: float, class_: str) -> Html:
    """A vertical interval with short caps; `low` and `high` are pixels."""
    caps = [line(x - 3, y, x + 3, y, class_) for y in (low, high)]
    return Html(line(x, low, x, high, class_) + "".join(caps))


def path(points: Sequence[tuple[float, float]], class_: str) -> Html:
    """A polyline through pixels."""
    drawn = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return element("path", d=drawn, class_=class_, fill="none")


def mark(x: float, y: float, shape: int, class_: str, size: float = 5.0) -> Html:
    """One of six marks (circle, square, diamond, triangle up, triangle down, cross) around (x, y)."""
    x, y, s = round(x, 1), round(y, 1), size
    outlines = (
        f"M{x - s} {y}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0Z",
        f"M{x - s} {y - s}h{2 * s}v{2 * s}h{-2 * s}Z",
        f"M{x} {y - 1.3 * s}L{x + 1.3 * s} {y}L{x} {y + 1.3 * s}L{x - 1.3 * s} {y}Z",
        f"M{x} {y - 1.2 * s}L{x + 1.2 * s} {y + s}L{x - 1.2 * s} {y + s}Z",
        f"M{x} {y + 1.2 * s}L{x + 1.2 * s} {y - s}L{x - 1.2 * s} {y - s}Z",
        f"M{x - s} {y - s}L{x + s} {y + s}M{x - s} {y + s}L{x + s} {y - s}",
    )
    return element("path", d=outlines[shape % len(outlines)], class_=class_)
