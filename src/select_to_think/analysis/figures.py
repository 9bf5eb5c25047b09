"""Charts as SVG files for papers and slides: those of the report, and the one of MentorCollab's settings.

Non-goals: what is drawn (`charts.py`); other formats, which any browser or converter makes of an SVG.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from select_to_think.analysis import charts
from select_to_think.analysis.charts import NARROW, WIDE, Curve
from select_to_think.analysis.markup import Html, element, join, page_file
from select_to_think.analysis.runs import Run
from select_to_think.analysis.svg import CHARACTER, Scale
from select_to_think.analysis.tables import Kind, hit_table, results_table
from select_to_think.files import make_folder, write_text_atomic

LINE = 24  # height of a title and of a line of the legend, px
SYMBOL = 34  # width of a legend's mark, px
PANELS: tuple[tuple[str, str, Kind], ...] = (
    ("accuracy", "Accuracy, 95 % interval", "percent"),
    ("llm_tokens_share", "Mentor tokens / output tokens", "percent"),
    ("seconds_per_answer", "Seconds per answer", "number"),
)
Cell = Mapping[str, Any]  # consult_rate, segment_tokens, and the keys of PANELS with `stderr`


def write_figures(runs: Sequence[Run], out: Path) -> list[Path]:
    """Write `accuracy`, one `accuracy-against-COST` per recorded cost and, where it was measured, `hit-at-k` to `out`.

    Returns the files. Raises S2TError if one cannot be written.
    """
    rows = results_table(runs).rows
    size, kinds = (WIDE, charts.height_of(WIDE)), charts.cost_legend()
    accuracy = ("Accuracy, 95 % intervals", charts.accuracy_chart(rows, WIDE))
    figures = {"accuracy": figure([accuracy], kinds, (WIDE, charts.accuracy_height(rows)))}
    for axis in charts.COST_AXES:
        if any(row[axis.key] for row in rows):
            panel = (f"Accuracy against {axis.words}, 95 % intervals", charts.cost_chart(rows, axis, WIDE))
            figures[f"accuracy-against-{axis.words.lower().replace(' ', '-')}"] = figure([panel], kinds, size)
    for run in runs:
        table = hit_table([run])
        if table.rows:
            legend = charts.curve_legend([str(row["domain"]) for row in charts.drawn_rows(table)])
            stem = "hit-at-k" if len(runs) == 1 else f"hit-at-k-{run.name}"
            panel = (f"Hit@k, {run.name}, 95 % intervals", charts.hit_chart(table, WIDE))
            figures[stem] = figure([panel], legend, size)
    make_folder(out)
    written = [out / f"{stem}.svg" for stem in figures]
    for path, drawn in zip(written, figures.values(), strict=True):
        write_text_atomic(path, drawn)
    return written


def draw_ablation(cells: Sequence[Cell], path: Path) -> Path:
    """Accuracy, mentor share and time against the consultation rate, a line for each segment length.

    Raises S2TError if the file cannot be written.
    """
    lengths = sorted({cell["segment_tokens"] for cell in cells if cell["segment_tokens"] is not None})
    names = [f"segments of {length} tokens" for length in lengths]
    most = max(cell["consult_rate"] for cell in cells) or 1.0
    x = Scale(-0.05 * most, most, charts.LEFT, NARROW - 20)
    ticks = [(tick, f"{100 * tick:g} %") for tick in x.ticks()]
    panels = []
    for key, title, kind in PANELS:
        curves = []
        for length, name in zip(lengths, names, strict=True):
            points = []
            for cell in cells:
                if cell["segment_tokens"] in (length, None):
                    margin = charts.margin95(cell) if key == "accuracy" else 0.0
                    points.append((cell["consult_rate"], cell[key] or 0.0, margin, name))
            curves.append(Curve(name, sorted(points)))
        highest = max(cell[key] or 0.0 for cell in cells)
        zero = Scale(0.0, 1.05 * highest or 1.0, *charts.span(NARROW))
        y = charts.accuracy_scale(cells, NARROW) if key == "accuracy" else zero
        axis = "Words at which the mentor is asked"
        panels.append((title, charts.curve_chart(curves, x, y, ticks, (axis, title), width=NARROW, kind=kind)))
    write_text_atomic(path, figure(panels, charts.curve_legend(names), (NARROW, charts.height_of(NARROW))))
    return path


def figure(panels: Sequence[tuple[str, Html]], legend: Sequence[tuple[Html, str]], size: tuple[int, int]) -> str:
    """Titled charts of one size (px) side by side with a legend below, as an SVG document that needs no style sheet."""
    width, height = size
    parts = []
    for place, (title, chart) in enumerate(panels):
        heading = element("text", title, x=charts.LEFT, y=17, class_="label")
        parts.append(_at(width * place, 0, join(heading, _at(0, LINE, chart))))
    left, top = charts.LEFT, LINE + height + 8
    for symbol, words in legend:
        length = SYMBOL + CHARACTER * len(words) + 24
        if left + length > width * len(panels):
            left, top = charts.LEFT, top + LINE
        parts.append(_at(left, top, join(symbol, element("text", words, x=SYMBOL, y=12))))
        left += int(length)
    whole = {"width": width * len(panels), "height": top + LINE}
    ground = element("rect", **whole, fill="#ffffff")
    box = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {whole['width']} {whole['height']}"}
    drawn = element("svg", element("style", Html(_style())), ground, *parts, **box, **whole, class_="chart")
    return f"{drawn}\n"


def _at(x: float, y: float, drawn: Html) -> Html:
    return element("g", drawn, transform=f"translate({x} {y})")


def _style() -> str:
    """The charts' style sheet in the page's light colours, with every name resolved: few programs know variables."""
    colours = dict(re.findall(r"--([\w-]+): ([^;]+);", page_file("style.css").split("}")[0]))
    style = re.sub(r"var\(--([\w-]+)\)", lambda name: colours[name[1]], page_file("chart.css"))
    return style.replace("font-family: inherit", "font-family: sans-serif")
