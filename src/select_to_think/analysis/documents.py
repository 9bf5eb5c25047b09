"""The results of one or several evaluations as one text: a page or Markdown for people, CSV and JSON for programs.

Non-goals: what the HTML page holds (`report.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from select_to_think.advice.document import Advice
from select_to_think.analysis.advice import divergence_table, headline, recall_table, ways_table
from select_to_think.analysis.formats import plain_rows, to_csv, to_markdown
from select_to_think.analysis.report import render
from select_to_think.analysis.runs import Run
from select_to_think.analysis.sections import cautions, lead, title
from select_to_think.analysis.tables import (
    Table,
    domain_table,
    full_table,
    hit_table,
    paired_table,
    results_table,
    subject_table,
)


def markdown(runs: Sequence[Run]) -> str:
    """Every table of the report with rounded values, remarks, and where the numbers come from."""
    parts = [f"# {title(runs)}\n\n{lead(runs)}\n"]
    parts += [f"> {note}\n" for run in runs for note in cautions(run)]
    parts += [
        advice_text(run.advice, f"Advice: {run.name}" if len(runs) > 1 else "Advice")
        for run in runs
        if run.advice is not None
    ]
    parts += [f"## {table.title}\n\n{to_markdown(table)}" for table in _tables(runs) if table.rows]
    parts.append("## Provenance\n\n" + "".join(f"- {run.name}: {_origin(run)}\n" for run in runs))
    return "\n".join(parts)


def advice_text(advice: Advice, title: str) -> str:
    """What to do, why, and how sure that is."""
    said = [*advice.reasons, *advice.recommendation.uncertainty]
    return f"## {title}\n\n{headline(advice)}\n\n" + "".join(f"- {words}\n" for words in said)


def _tables(runs: Sequence[Run]) -> Iterator[Table]:
    yield results_table(runs)
    for run in runs:
        yield paired_table(run)
        if len(run.domains) > 1:
            yield domain_table(run)
        yield subject_table(run)
        if run.advice is not None:
            yield from (ways_table(run.advice), divergence_table(run.advice), recall_table(run.advice))
    yield hit_table(runs)


def _origin(run: Run) -> str:
    """Where a run's numbers come from, in a line."""
    about = run.provenance
    commit = about.get("git_hash")
    facts = [
        about.get("date"),
        *(f"{name} {version}" for name, version in about.get("versions", {}).items() if version),
        f"commit {commit}{' with uncommitted changes' if about.get('dirty') else ''}" if commit else None,
        " ".join(str(about[name]) for name in ("device", "dtype") if about.get(name)),
        f"seeds {', '.join(map(str, about['seeds']))}" if about.get("seeds") else None,
    ]
    return ", ".join(str(fact) for fact in facts if fact)


def json_text(runs: Sequence[Run]) -> str:
    """One object: `results` (the rows of the CSV), `hit_at_k`, `subjects` and `provenance` by run; exact values."""
    tables = {"results": full_table(runs), "hit_at_k": hit_table(runs)}
    document = {
        "schema": 1,
        **{name: plain_rows(table) for name, table in tables.items()},
        "subjects": [{"run": run.name, **row} for run in runs for row in plain_rows(subject_table(run))],
        "advice": {run.name: run.advice.to_json() for run in runs if run.advice is not None},
        "provenance": {run.name: run.provenance for run in runs},
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


DOCUMENTS: Mapping[str, Callable[[Sequence[Run]], str]] = {
    "html": render,
    "md": markdown,
    "csv": lambda runs: to_csv(full_table(runs)),
    "json": json_text,
}
