"""The report: one self-contained HTML page about one or several evaluations.

Tables and charts are written here as plain markup and need no script; the worked example and the item browser are
drawn in the page by `page/*.js` from embedded data. All text passes through `markup.py`, and the page forbids itself
every network access and every script but its own.

Non-goals: computing results (`evaluation/`), picking items (`items.py`).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from string import Template

from select_to_think.analysis import advice, reading, sections
from select_to_think.analysis.items import select
from select_to_think.analysis.markup import element, embedded_json, join, page_file, text
from select_to_think.analysis.runs import Run, baseline_name, load_runs
from select_to_think.files import make_folder, write_text_atomic

SCRIPTS = ("answer.js", "browser.js")


def write_report(run_folders: Sequence[Path], out: Path) -> Path:
    """Write the report of these runs to `out` (atomically) and return it.

    Raises S2TError if a run cannot be read or `out` cannot be written.
    """
    page = render(load_runs(run_folders))
    make_folder(out.parent)
    write_text_atomic(out, page)
    return out


def render(runs: Sequence[Run]) -> str:
    """The whole page as text."""
    selection = select(runs)
    parts = {
        "advice": ("Advice", advice.section(runs)),
        "results": ("Results", sections.results(runs)),
        "differences": (f"Against {baseline_name(runs)}", sections.differences(runs)),
        "domains": ("By domain", sections.domains(runs)),
        "cost": ("Accuracy against cost", sections.cost(runs)),
        "hit": ("Hit@k", sections.hit(runs)),
        "example": ("One answer", reading.example(selection)),
        "items": ("Items", reading.browser(runs, selection)),
        "provenance": ("Provenance", sections.provenance(runs)),
    }
    present = {key: part for key, part in parts.items() if part[1]}
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(page_file("template.html")).substitute(
        title=text(sections.title(runs)),
        lead=text(sections.lead(runs)),
        script_hash=f"sha256-{digest}",
        style=page_file("chart.css") + page_file("style.css"),
        navigation=join(*(element("li", element("a", label, href=f"#{key}")) for key, (label, _) in present.items())),
        sections=join(*(element("section", body, id=key) for key, (_, body) in present.items())),
        data=embedded_json(selection.payload),
        script=script,
    )


def _script() -> str:
    """The page's script, exactly as it stands between its tags (its hash is in the page's policy)."""
    return '"use strict";\n{\n' + "\n".join(page_file(name) for name in SCRIPTS) + "}\n"
