"""The charts as SVG: accuracies, accuracy against cost, curves such as Hit@k.

Colours come from the style sheet by class (`series-N`, `with-llm`), so that they follow light, dark and print. Every
mark can be reached by keyboard and says its numbers.

Non-goals: statistics. Intervals are drawn at 1.96 standard errors, as given in the results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from select_to_think.analysis.markup import Html, element, join
from select_to_think.analysis.runs import ALL
from select_to_think.analysis.svg import CHARACTER, Labels, Scale, covering, interval, line, mark, path
from select_to_think.analysis.tables import Z95, Kind, Row, Table, show, with_prefix
from select_to_think.evaluation.results import KS

MAX_SERIES = 6
WIDE, NARROW = 760, 360
LEFT = 48  # room for the labels of the vertical axis, px


@dataclass(frozen=True)
class CostAxis:
    """One meaning of cost. `key` is a field of `results_table`."""

    key: str
    title: str
    lower_is_better: bool = True
    kind: Kind = "number"

    @property
    def words(self) -> str:
        """The title within a sentence."""
        return self.title if self.title[:2].isupper() else self.title[0].lower() + self.title[1:]


COST_AXES = (
    CostAxis("seconds_per_answer", "Seconds per answer"),
    CostAxis("llm_share", "LLM share of the output", kind="percent"),
    CostAxis("llm_processed_per_answer", "LLM tokens processed per answer"),
    CostAxis("llm_generated_per_answer", "LLM tokens generated per answer"),
    CostAxis("llm_forwards_per_answer", "LLM forwards per answer"),
    CostAxis("flops_per_answer", "FLOPs per answer", kind="si"),
    CostAxis("money_per_1000", "Money per 1,000 answers"),
    CostAxis("tokens_per_second", "Tokens per second", lower_is_better=False),
)


def uses_llm(row: Row) -> bool:
    """Whether the method fed anything through the LLM."""
    return bool(row.get("llm_tokens_processed") or row.get("llm_forwards"))


def margin95(row: Row) -> float:
    """Half the width of the 95 % interval of the accuracy."""
    return Z95 * float(row.get("stderr") or 0.0)


def pareto_front(rows: Sequence[Row], axis: CostAxis) -> list[Row]:
    """The rows that no other row beats: none is at most as costly and at least as accurate, and better in one of them.

    In the order of rising cost; rows without this cost take no part.
    """
    sign = 1 if axis.lower_is_better else -1
    known = sorted((row for row in rows if row.get(axis.key) is not None), key=lambda row: sign * row[axis.key])
    places = [(sign * row[axis.key], -row["accuracy"]) for row in known]  # the lower, the better
    return [
        row
        for row, place in zip(known, places, strict=True)
        if not any(cost <= place[0] and error <= place[1] and (cost, error) != place for cost, error in places)
    ]


def cost_chart(rows: Sequence[Row], axis: CostAxis, width: int) -> Html:
    """Accuracy against one cost; the Pareto front as a line, its methods filled. Needs at least one row."""
    rows = [row for row in rows if row.get(axis.key) is not None]
    x = covering([row[axis.key] for row in rows], LEFT, width - 16, root=axis.kind == "percent")
    y = accuracy_scale(rows, width)
    front = pareto_front(rows, axis)
    labels = Labels(width)
    for row in rows:
        labels.occupy(x(row[axis.key]), y(row["accuracy"]), 7)
    front_line = path([(x(row[axis.key]), y(row["accuracy"])) for row in front], "front") if len(front) > 1 else None
    marks = [_cost_mark(row, axis, x, y, row in front) for row in rows]
    important_first = sorted(rows, key=lambda row: front.index(row) if row in front else len(front))
    names = [labels.place(x(row[axis.key]), y(row["accuracy"]), name(row, rows)) for row in important_first]
    ticks = [(tick, _tick(tick, axis.kind)) for tick in x.ticks()]
    drawn = join(_grid(x, y, ticks, axis.title, width), front_line, *marks, *names)
    return _svg(drawn, width, height_of(width), f"Accuracy against {axis.words}")


def height_of(width: int) -> int:
    """The height of a chart of this width."""
    return 400 if width > 500 else 340


def accuracy_scale(rows: Sequence[Row], width: int) -> Scale:
    """A vertical axis in steps of 20 % that holds every interval."""
    lowest = min(max(0.0, row["accuracy"] - margin95(row)) for row in rows)
    highest = max(min(1.0, row["accuracy"] + margin95(row)) for row in rows)
    bottom = min(math.floor(5 * lowest) / 5, 0.8)
    return Scale(bottom, max(math.ceil(5 * highest) / 5, bottom + 0.2), *span(width))


def span(width: int) -> tuple[float, float]:
    """The pixels of the lower and the upper end of a vertical axis."""
    return height_of(width) - 46, 14


def name(row: Row, rows: Sequence[Row]) -> str:
    """The method, with what else tells it apart among `rows`: its domain, its run."""
    parts = [str(row["method"])]
    for key in ("domain", "run"):
        if len({other[key] for other in rows}) > 1:
            parts.append(str(row[key]))
    return " · ".join(parts)


def _cost_mark(row: Row, axis: CostAxis, x: Scale, y: Scale, on_front: bool) -> Html:
    left, accuracy, margin = x(row[axis.key]), row["accuracy"], margin95(row)
    kind = tone_of(uses_llm(row)) + (" on-front" if on_front else "")
    low, high = y(max(0.0, accuracy - margin)), y(min(1.0, accuracy + margin))
    tip = (
        f"{row['method']}: {100 * accuracy:.1f} ± {100 * margin:.1f} % (95 %), "
        f"{axis.words} {show(row[axis.key], axis.kind)}{', on the Pareto front' if on_front else ''}"
    )
    drawn = join(interval(left, low, high, "error"), mark(left, y(accuracy), shape_of(uses_llm(row)), "mark", 5.5))
    return element("g", drawn, class_=f"point {kind}", tabindex=0, role="img", aria_label=tip, data_tip=tip)


@dataclass(frozen=True)
class Curve:
    """One line: its points as (x, value, half of the interval, what the mark says; without words, no mark)."""

    name: str
    points: Sequence[tuple[float, float, float, str]]


def curve_chart(
    curves: Sequence[Curve], x: Scale, y: Scale, ticks: Sequence[tuple[float, str]], titles: tuple[str, str], *,
    width: int, kind: Kind = "percent", apart: float = 0.0
) -> Html:  # fmt: skip
    """Curves with their intervals, one mark and colour each; `apart` moves them sideways by so many pixels.

    `titles`: of the horizontal axis, and of the chart for who does not see it. `kind`: of the values.
    """
    series = []
    for index, curve in enumerate(curves):
        shift = apart * (index - (len(curves) - 1) / 2)
        marks = [_curve_mark(x(at) + shift, y, point, index) for at, *point in curve.points if point[-1]]
        line_ = path([(x(at) + shift, y(value)) for at, value, *_ in curve.points], "curve") if curve.points else None
        series.append(element("g", line_, *marks, class_=f"series-{index % MAX_SERIES}"))
    return _svg(join(_grid(x, y, ticks, titles[0], width, kind), *series), width, height_of(width), titles[1])


def _curve_mark(left: float, y: Scale, point: Sequence[Any], index: int) -> Html:
    value, margin, tip = point
    ends = (y(max(y.low, value - margin)), y(min(y.high, value + margin)))
    bar = interval(left, *ends, "error") if margin else None
    shape = mark(left, y(value), index, "mark", 4.0)
    return element("g", bar, shape, class_="point", tabindex=0, role="img", aria_label=tip, data_tip=tip)


def curve_legend(names: Sequence[str]) -> list[tuple[Html, str]]:
    """The line and mark of each curve, and its name."""
    entries = []
    for index, words in enumerate(names):
        tone = f"series-{index % MAX_SERIES}"
        drawn = element("g", line(0, 8, 26, 8, "curve"), mark(13, 8, index, "mark", 4.0), class_=tone)
        entries.append((element("svg", drawn, viewBox="0 0 26 16", width=26, height=16, aria_hidden="true"), words))
    return entries


def hit_chart(table: Table, width: int) -> Html:
    """Hit@k over k (doubling) with 95 % intervals, one curve per row of `hit_table`, at most `MAX_SERIES`."""
    curves = []
    for row in drawn_rows(table):
        points = []
        for place, k in enumerate(KS):
            if (value := row.get(f"hit_at:{k}")) is not None:
                margin = Z95 * (row.get(f"stderr_at:{k}") or 0.0)
                tip = f"{row['domain']}: Hit@{k} {100 * value:.1f} ± {100 * margin:.1f} % (95 %)"
                points.append((float(place), value, margin, tip))
        curves.append(Curve(row["domain"], points))
    x = Scale(-0.25, len(KS) - 0.75, LEFT, width - 20)
    ticks = [(float(place), str(k)) for place, k in enumerate(KS)]
    titles = ("k: the small model's best k tokens", "Hit@k by domain")
    return curve_chart(curves, x, Scale(0.0, 1.0, *span(width)), ticks, titles, width=width, apart=4.0)


def drawn_rows(table: Table) -> list[Row]:
    """The rows that the Hit@k chart shows: "all" and then those with the most steps."""
    ranked = sorted(table.rows, key=lambda row: (row["domain"] != ALL, -(row.get("n_steps") or 0)))
    kept = ranked[:MAX_SERIES]
    return [row for row in table.rows if row in kept]


def accuracy_height(rows: Sequence[Row]) -> int:
    """The height of `accuracy_chart`."""
    return 26 * len(rows) + 60


def accuracy_chart(rows: Sequence[Row], width: int) -> Html:
    """Accuracies with their 95 % intervals, one line per row, the first on top."""
    names = [name(row, rows) for row in rows]
    height = accuracy_height(rows)
    x = Scale(0.0, 1.0, min(24 + CHARACTER * max(map(len, names)), width / 2), width - 24)
    y = Scale(0.0, float(len(rows)), 14, height - 46)
    ticks = [(tick, _tick(tick, "percent")) for tick in x.ticks()]
    parts = [line(x(tick), 14, x(tick), height - 46, "grid") for tick, _ in ticks]
    parts += [_text(x(tick), height - 26, label, "middle") for tick, label in ticks]
    parts.append(_text((x.start + x.end) / 2, height - 6, "Accuracy", "middle"))
    for place, (row, words) in enumerate(zip(rows, names, strict=True)):
        middle, margin = y(place + 0.5), margin95(row)
        low, high = x(max(0.0, row["accuracy"] - margin)), x(min(1.0, row["accuracy"] + margin))
        drawn = join(
            line(low, middle, high, middle, "error"),
            mark(x(row["accuracy"]), middle, shape_of(uses_llm(row)), "mark", 5.0),
        )
        parts.append(_text(x.start - 10, middle + 4, words, "end"))
        parts.append(element("g", drawn, class_=f"{tone_of(uses_llm(row))} on-front"))
    return _svg(join(*parts), width, height, "Accuracy by method")


def cost_legend() -> list[tuple[Html, str]]:
    """The two kinds of marks in the cost charts, and what they mean."""
    entries = []
    for llm, words in ((False, "no LLM at inference"), (True, "LLM used")):
        drawn = element("g", mark(8, 8, shape_of(llm), "mark", 5.0), class_=f"{tone_of(llm)} on-front")
        entries.append((element("svg", drawn, viewBox="0 0 16 16", width=16, height=16, aria_hidden="true"), words))
    return entries


def shape_of(llm: bool) -> int:
    """The mark of methods with or without an LLM."""
    return 2 if llm else 0


def tone_of(llm: bool) -> str:
    """The class of their colour."""
    return "with-llm" if llm else "no-llm"


def _grid(
    x: Scale, y: Scale, ticks: Sequence[tuple[float, str]], title: str, width: int, kind: Kind = "percent"
) -> Html:
    """The lines of the vertical axis, the ticks of the horizontal one as far as their labels fit, its title."""
    height = height_of(width)
    parts = [line(x.start, y(tick), x.end, y(tick), "grid") for tick in y.ticks()]
    parts += [_text(x.start - 8, y(tick) + 4, _tick(tick, kind), "end") for tick in y.ticks()]
    free = x.start - 1.0
    for tick, label in ticks:
        at, half = x(tick), CHARACTER * len(label) / 2
        if at - half > free and at + half < width:
            parts.append(_text(at, height - 26, label, "middle"))
            free = at + half + 6
        parts.append(line(at, y.start, at, y.start + 4, "grid"))
    parts.append(_text((x.start + x.end) / 2, height - 6, title, "middle"))
    return join(*parts)


def _tick(value: float, kind: Kind) -> str:
    if kind == "percent":
        return f"{100 * value:g} %"
    if kind == "si":
        return with_prefix(value)
    return f"{value:,.6g}" if value < 1 else f"{value:,.10g}"


def _text(x: float, y: float, label: str, anchor: str) -> Html:
    return element("text", label, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _svg(drawn: Html, width: int, height: int, label: str) -> Html:
    size = "wide" if width > 500 else "narrow"
    box = {"viewBox": f"0 0 {width} {height}", "width": width, "height": height}
    return element("svg", drawn, **box, class_=f"chart {size}", role="group", aria_label=label)


def both_widths(draw: Callable[[int], Html]) -> Html:
    """The chart for wide and for narrow screens; the style sheet shows one of them."""
    return join(draw(WIDE), draw(NARROW))
