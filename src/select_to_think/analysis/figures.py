"""Figures for papers and slides as PNG and SVG, drawn by matplotlib (an extra).

Non-goals: the charts of the HTML report, which need no matplotlib (`charts.py`).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from select_to_think.analysis.charts import COST_AXES, CostAxis, margin95, name, pareto_front, uses_llm
from select_to_think.analysis.runs import load_runs
from select_to_think.analysis.tables import HIT_KS, Z95, Row, hit_table, results_table
from select_to_think.files import make_folder, write_bytes_atomic
from select_to_think.structures import S2TError

Axes = Any  # matplotlib.axes.Axes; matplotlib may be absent

FORMATS = ("png", "svg")
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)  # ticks of an axis that keeps small shares apart
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 9,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "select-to-think",
}


def write_figures(run_folders: Sequence[Path], out: Path, *, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write `accuracy`, one `accuracy-against-COST` per recorded cost and, where it was measured, `hit-at-k` to `out`.

    Returns the files. Raises S2TError if matplotlib is missing, a format is unknown, or a file cannot be read or
    written.
    """
    matplotlib, figure_class = matplotlib_figure()
    formats = list(formats)
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise S2TError(f"unknown figure format {unknown[0]!r}; choose from {', '.join(FORMATS)}")
    runs = load_runs(run_folders)
    rows, hits = results_table(runs).rows, hit_table(runs).rows
    make_folder(out)
    written = []
    with matplotlib.rc_context(STYLE):
        figures = {"accuracy": _accuracy(figure_class(figsize=(6, 0.6 + 0.3 * len(rows))).subplots(), rows)}
        for axis in COST_AXES:
            if any(row[axis.key] for row in rows):
                words = axis.title.lower().replace(" ", "-")
                figures[f"accuracy-against-{words}"] = _cost(figure_class(figsize=(5, 3.4)).subplots(), rows, axis)
        if hits:
            figures["hit-at-k"] = _hits(figure_class(figsize=(5, 3.4)).subplots(), hits)
        for stem, axes in figures.items():
            for kind in formats:
                written.append(save_figure(axes.get_figure(), out / f"{stem}.{kind}"))
    return written


def matplotlib_figure() -> tuple[Any, Any]:
    """(matplotlib, its class Figure). Raises S2TError if it is not installed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise S2TError("figures need matplotlib: run `pip install 'select-to-think[plots]'`") from None
    return matplotlib, Figure


def save_figure(figure: Any, path: Path) -> Path:
    """Write a figure in the format that the name ends with; the same figure gives the same bytes."""
    content = io.BytesIO()
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(content, format=path.suffix[1:], bbox_inches="tight", metadata=metadata)
    write_bytes_atomic(path, content.getvalue())
    return path


def _accuracy(axes: Axes, rows: Sequence[Row]) -> Axes:
    """Accuracies with 95 % intervals, one line per method, the first on top."""
    for place, row in enumerate(rows):
        colour = COLOURS[uses_llm(row)]
        axes.errorbar(100 * row["accuracy"], -place, xerr=100 * margin95(row), fmt="o", color=colour, capsize=3)
    axes.set_yticks([-place for place in range(len(rows))], [name(row, rows) for row in rows])
    axes.set_xlim(0, 100)
    axes.set_xlabel("Accuracy (%), 95 % interval")
    return axes


def _cost(axes: Axes, rows: Sequence[Row], axis: CostAxis) -> Axes:
    """Accuracy against one cost, with the Pareto front."""
    front = pareto_front(rows, axis)
    axes.plot([row[axis.key] for row in front], [100 * row["accuracy"] for row in front], "--", color="0.5", zorder=1)
    for row in rows:
        if row[axis.key] is None:
            continue
        llm, place = uses_llm(row), (row[axis.key], 100 * row["accuracy"])
        face = COLOURS[llm] if row in front else "white"
        axes.errorbar(
            *place, yerr=100 * margin95(row), fmt="D" if llm else "o", color=COLOURS[llm], mfc=face, capsize=2
        )
    if axis.kind == "percent":
        axes.set_xscale("function", functions=(lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * x**2))
        axes.set_xlim(-0.001, 1.08 * max(row[axis.key] or 0.0 for row in rows))
        ticks = [share for share in SHARES if share <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{100 * share:g} %" for share in ticks])
    axes.set_xlabel(axis.title)
    axes.set_ylabel("Accuracy (%)")
    _label(axes, [(name(row, rows), row[axis.key], 100 * row["accuracy"]) for row in rows if row[axis.key] is not None])
    return axes


def _label(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Write each point's name beside it, where no name stands yet."""
    taken: list[Any] = []
    for words, x, y in points:
        for right, up in ((6, 4), (6, -9), (6, 14), (6, -20), (-6, 4), (-6, -9)):
            side = "left" if right > 0 else "right"
            text = axes.annotate(words, (x, y), xytext=(right, up), textcoords="offset points", ha=side)
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        else:
            text = axes.annotate(words, (x, y), xytext=(6, 4), textcoords="offset points")
        taken.append(text.get_window_extent())


def _hits(axes: Axes, rows: Sequence[Row]) -> Axes:
    """Hit@k with 95 % intervals, one curve per domain."""
    for index, row in enumerate(rows):
        known = [k for k in HIT_KS if row[f"hit_at:{k}"] is not None]
        values = [100 * row[f"hit_at:{k}"] for k in known]
        errors = [100 * Z95 * (row[f"stderr_at:{k}"] or 0.0) for k in known]
        label = row["domain"] if len({other["run"] for other in rows}) == 1 else f"{row['domain']} · {row['run']}"
        axes.errorbar(known, values, yerr=errors, marker="osD^vX"[index % 6], color=COLOURS[index % 6], label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(HIT_KS, [str(k) for k in HIT_KS])
    axes.set_ylim(0, 103)
    axes.set_xlabel("k")
    axes.set_ylabel("Hit@k (%)")
    axes.legend(frameon=False)
    return axes
