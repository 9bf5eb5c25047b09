"""The charts of the report as SVG: accuracy against cost, Hit@k, an accuracy with its interval.

Colours come from the page's style sheet by class (`series-N`, `with-llm`), so that they follow light, dark and print.
Every mark can be reached by keyboard and says its numbers.

Non-goals: statistics. Intervals are drawn at 1.96 standard errors, as given in the results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from select_to_think.analysis.markup import Html, element, join
from select_to_think.analysis.runs import ALL
from select_to_think.analysis.svg import CHARACTER, Labels, Scale, covering, interval, line, mark, path
from select_to_think.analysis.tables import HIT_KS, Z95, Kind, Row, Table, show, with_prefix

MAX_SERIES = 6
WIDE, NARROW = 760, 360


@dataclass(frozen=True)
class CostAxis:
    """One meaning of cost. `key` is a field of `results_table`."""

    key: str
    title: str
    lower_is_better: bool = True
    kind: Kind = "number"


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
    return [row for row in known if not any(_beats(other, row, axis.key, sign) for other in known)]


def _beats(other: Row, row: Row, key: str, sign: int) -> bool:
    cheaper = sign * (row[key] - other[key])
    better = other["accuracy"] - row["accuracy"]
    return bool(cheaper >= 0 and better >= 0 and (cheaper > 0 or better > 0))


def cost_chart(rows: Sequence[Row], axis: CostAxis, width: int) -> Html:
    """Accuracy against one cost; the Pareto front as a line, its methods filled. Needs at least one row."""
    rows = [row for row in rows if row.get(axis.key) is not None]
    height = 400 if width > 500 else 360
    x = covering([row[axis.key] for row in rows], 48, width - 16, root=axis.kind == "percent")
    lowest = min(max(0.0, row["accuracy"] - margin95(row)) for row in rows)
    highest = max(min(1.0, row["accuracy"] + margin95(row)) for row in rows)
    bottom, top = math.floor(5 * lowest) / 5, math.ceil(5 * highest) / 5
    y = Scale(min(bottom, 0.8), max(top, min(bottom, 0.8) + 0.2), height - 46, 14)
    front = pareto_front(rows, axis)
    labels = Labels(width)
    for row in rows:
        labels.occupy(x(row[axis.key]), y(row["accuracy"]), 7)
    front_line = path([(x(row[axis.key]), y(row["accuracy"])) for row in front], "front") if len(front) > 1 else None
    marks = [_cost_mark(row, axis, x, y, row in front) for row in rows]
    names = [
        labels.place(x(row[axis.key]), y(row["accuracy"]), name(row, rows)) for row in [*front, *rows_off(rows, front)]
    ]
    drawn = join(_grid(x, y, width, height, axis), front_line, *marks, *names)
    return _svg(drawn, width, height, f"Accuracy against {axis.title.lower()}")


def rows_off(rows: Sequence[Row], front: Sequence[Row]) -> list[Row]:
    """The rows that are not on the front."""
    return [row for row in rows if row not in front]


def name(row: Row, rows: Sequence[Row]) -> str:
    """The method, with what else tells it apart among `rows`: its domain, its run."""
    parts = [str(row["method"])]
    for key in ("domain", "run"):
        if len({other[key] for other in rows}) > 1:
            parts.append(str(row[key]))
    return " · ".join(parts)


def _cost_mark(row: Row, axis: CostAxis, x: Scale, y: Scale, on_front: bool) -> Html:
    left, accuracy, margin = x(row[axis.key]), row["accuracy"], margin95(row)
    kind = _tone(uses_llm(row)) + (" on-front" if on_front else "")
    low, high = y(max(0.0, accuracy - margin)), y(min(1.0, accuracy + margin))
    tip = (
        f"{row['method']}: {100 * accuracy:.1f} ± {100 * margin:.1f} % (95 %), "
        f"{axis.title.lower()} {show(row[axis.key], axis.kind)}{', on the Pareto front' if on_front else ''}"
    )
    drawn = join(interval(left, low, high, "error"), mark(left, y(accuracy), _shape(uses_llm(row)), "mark", 5.5))
    return element("g", drawn, class_=f"point {kind}", tabindex=0, role="img", aria_label=tip, data_tip=tip)


def hit_chart(table: Table, width: int) -> Html:
    """Hit@k over k (doubling) with 95 % intervals, one curve per row of `hit_table`, at most `MAX_SERIES`."""
    rows = drawn_rows(table)
    height = 360 if width > 500 else 300
    left, right = 48, width - 20
    y = Scale(0.0, 1.0, height - 46, 14)
    positions = {k: left + 18 + (right - left - 36) * index / (len(HIT_KS) - 1) for index, k in enumerate(HIT_KS)}
    grid = [line(left, y(tick), right, y(tick), "grid") for tick in y.ticks()]
    grid += [_text(left - 8, y(tick) + 4, f"{100 * tick:.0f} %", "end") for tick in y.ticks()]
    grid += [_text(at, height - 26, str(k), "middle") for k, at in positions.items()]
    grid.append(_text((left + right) / 2, height - 6, "k: the small model's best k tokens", "middle"))
    series = [_hit_series(row, index, len(rows), positions, y) for index, row in enumerate(rows)]
    return _svg(join(*grid, *series), width, height, "Hit@k by domain")


def drawn_rows(table: Table) -> list[Row]:
    """The rows that the Hit@k chart shows: "all" and then those with the most steps."""
    ranked = sorted(table.rows, key=lambda row: (row["domain"] != ALL, -(row.get("n_steps") or 0)))
    kept = ranked[:MAX_SERIES]
    return [row for row in table.rows if row in kept]


def _hit_series(row: Row, index: int, count: int, positions: dict[int, float], y: Scale) -> Html:
    shift = 4.0 * (index - (count - 1) / 2)
    points, marks = [], []
    for k, at in positions.items():
        value = row.get(f"hit_at:{k}")
        if value is None:
            continue
        margin = Z95 * (row.get(f"stderr_at:{k}") or 0.0)
        points.append((at + shift, y(value)))
        tip = f"{row['domain']}: Hit@{k} {100 * value:.1f} ± {100 * margin:.1f} % (95 %)"
        bar = interval(at + shift, y(max(0.0, value - margin)), y(min(1.0, value + margin)), "error")
        shape = mark(at + shift, y(value), index, "mark", 4.0)
        marks.append(element("g", bar, shape, class_="point", tabindex=0, role="img", aria_label=tip, data_tip=tip))
    return element("g", path(points, "curve") if points else None, *marks, class_=f"series-{index}")


def hit_legend_mark(index: int) -> Html:
    """The line and mark of one curve."""
    drawn = element("g", line(0, 8, 26, 8, "curve"), mark(13, 8, index, "mark", 4.0), class_=f"series-{index}")
    return element("svg", drawn, viewBox="0 0 26 16", width=26, height=16, aria_hidden="true")


def cost_legend() -> list[tuple[Html, str]]:
    """The two kinds of marks in the cost charts, and what they mean."""
    entries = []
    for llm, words in ((False, "no LLM at inference"), (True, "LLM used")):
        drawn = element("g", mark(8, 8, _shape(llm), "mark", 5.0), class_=f"{_tone(llm)} on-front")
        entries.append((element("svg", drawn, viewBox="0 0 16 16", width=16, height=16, aria_hidden="true"), words))
    return entries


def _shape(llm: bool) -> int:
    return 2 if llm else 0


def _tone(llm: bool) -> str:
    return "with-llm" if llm else "no-llm"


def accuracy_bar(row: Row) -> Html:
    """A small 0-100 % axis with the accuracy as a dot in its 95 % interval; the numbers stand beside it."""
    accuracy, margin = row["accuracy"], margin95(row)
    x = Scale(0.0, 1.0, 4, 136)
    return _bar(x, (0.0, 0.5, 1.0), max(0.0, accuracy - margin), accuracy, min(1.0, accuracy + margin), row)


def difference_bar(row: Row, rows: Sequence[Row]) -> Html:
    """A small axis shared by `rows`, with a tick at zero and the difference as a dot in its interval."""
    x = Scale(min(0.0, *(row["low"] for row in rows)), max(0.01, *(row["high"] for row in rows)), 4, 136)
    return _bar(x, (0.0,), row["low"], row["difference"], row["high"], row)


def _bar(x: Scale, ticks: Sequence[float], low: float, value: float, high: float, row: Row) -> Html:
    drawn = join(
        line(4, 9, 136, 9, "grid"),
        *(line(x(tick), 4, x(tick), 14, "grid") for tick in ticks),
        line(x(low), 9, x(high), 9, "error wide"),
        mark(x(value), 9, _shape(uses_llm(row)), "mark", 2.5),
    )
    kind = _tone(uses_llm(row))
    return element("svg", drawn, class_=f"bar on-front {kind}", viewBox="0 0 140 18", aria_hidden="true")


def _grid(x: Scale, y: Scale, width: int, height: int, axis: CostAxis) -> Html:
    parts = [line(x.start, y(tick), x.end, y(tick), "grid") for tick in y.ticks()]
    parts += [_text(x.start - 8, y(tick) + 4, f"{100 * tick:.0f} %", "end") for tick in y.ticks()]
    free = x.start - 1.0
    for tick in x.ticks():
        label = _tick(tick, axis.kind)
        at, half = x(tick), CHARACTER * len(label) / 2
        if at - half > free and at + half < width:
            parts.append(_text(at, height - 26, label, "middle"))
            free = at + half + 6
        parts.append(line(at, y.start, at, y.start + 4, "grid"))
    parts.append(_text((x.start + x.end) / 2, height - 6, axis.title, "middle"))
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
    return element(
        "svg", drawn, viewBox=f"0 0 {width} {height}", class_=f"chart {size}", role="group", aria_label=label
    )


def both_widths(draw: Callable[[int], Html]) -> Html:
    """The chart for wide and for narrow screens; the style sheet shows one of them."""
    return join(draw(WIDE), draw(NARROW))
