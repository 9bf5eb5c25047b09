"""One figure of MentorCollab's settings: accuracy, mentor share and time against the consultation rate.

Non-goals: running the grid (`evaluation/ablation.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from select_to_think.analysis.figures import COLOURS, STYLE, matplotlib_figure, save_figure
from select_to_think.analysis.tables import Z95

PANELS = (
    ("accuracy", "Accuracy (%)", 100.0),
    ("llm_tokens_share", "Mentor tokens / output tokens (%)", 100.0),
    ("seconds_per_answer", "Seconds per answer", 1.0),
)
Line = Mapping[str, Any]  # one cell: consult_rate, segment_tokens, and the keys of PANELS with `stderr`


def draw_ablation(cells: Sequence[Line], path: Path) -> Path:
    """Three panels side by side, a line for each segment length; `path` ends in .svg or .png.

    Raises S2TError if matplotlib is missing or the file cannot be written.
    """
    matplotlib, figure_class = matplotlib_figure()
    lengths = sorted({cell["segment_tokens"] for cell in cells if cell["segment_tokens"] is not None})
    with matplotlib.rc_context(STYLE):
        figure = figure_class(figsize=(10, 3.4))
        for axes, (key, title, scale) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            for number, length in enumerate(lengths):
                line = [cell for cell in cells if cell["segment_tokens"] in (length, None)]
                rates = [100 * cell["consult_rate"] for cell in line]
                margins = [Z95 * 100 * (cell["stderr"] or 0.0) for cell in line] if key == "accuracy" else None
                axes.errorbar(
                    rates,
                    [scale * (cell[key] or 0.0) for cell in line],
                    yerr=margins,
                    fmt="o-",
                    ms=3,
                    capsize=2,
                    color=COLOURS[number % len(COLOURS)],
                    label=f"{length} tokens",
                )
            axes.set_xlabel("Words at which the mentor is asked (%)")
            axes.set_ylabel(title)
        axes.legend(title="Segment", frameon=False)
        figure.tight_layout()
        return save_figure(figure, path)
