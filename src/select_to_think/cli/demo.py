"""`s2t demo`: the whole idea on the bundled pair, in a few minutes on two cores, without training anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from select_to_think.cli import evaluate as evaluate_command
from select_to_think.cli import measure as measure_command
from select_to_think.cli.command import AGAIN, add_command
from select_to_think.cli.data import PANEL, Out, folder_for
from select_to_think.cli.generate import describe
from select_to_think.cli.options import Batching, Only
from select_to_think.cli.output import Reply, note
from select_to_think.cli.progress import progress
from select_to_think.cli.report import FILE_NAME as REPORT
from select_to_think.cli.trace import show_generation
from select_to_think.config import DecodeConfig, PairConfig, SelectConfig
from select_to_think.structures import Generation

if TYPE_CHECKING:
    from select_to_think.evaluation.items import Item
    from select_to_think.evaluation.results import Results
    from select_to_think.session import Session

METHODS = ("greedy", "maj@8", "s2t-local", "s2t", "takeover", "llm")
SPLIT = "test"

Bundled = Annotated[PairConfig, Only(("pair", "device", "dtype"))]
Budget = Annotated[SelectConfig, Only(("trigger_budget", "scorer_mode", "score"))]


def demo(
    pair: Bundled,
    decode: Batching,
    select: Budget,
    limit: Annotated[
        int, typer.Option("--limit", metavar="INT", min=1, help="Test problems per domain.", rich_help_panel=PANEL)
    ] = 100,
    out: Out = None,
) -> Reply:
    """See the whole idea on the bundled pair: select, take over, S2T-Local and the baselines on its test problems.

    Trains nothing. Ends with a table, a worked example and the path of an HTML report.
    """
    from select_to_think.analysis.report import write_report
    from select_to_think.evaluation.items import load_pair_split
    from select_to_think.session import Session

    items = load_pair_split(SPLIT, limit_per_domain=limit)
    folder = folder_for("demo", out, pair, decode, select, limit)
    session = Session.load(pair)
    note(f"{len(items)} test problems, {len(METHODS)} methods; everything goes to {folder}")
    results = run_methods(session, items, decode, select, folder)
    measured = run_measure(session, items, decode, select, folder)
    item = telling_item(folder, items)
    example = session.generate([item.question], "s2t-local", decode, select)[0]
    page = write_report([folder], folder / REPORT)
    payload = {
        **results.to_json(),
        "measure": measured["results"],
        "example": describe(item.question, example, session.text),
        "report": str(page),
    }
    return Reply(payload, lambda console: show(console, session, results, measured, item, example, page))


def run_methods(
    session: Session, items: list[Item], decode: DecodeConfig, select: SelectConfig, folder: Path
) -> Results:
    """Every method over every item."""
    from select_to_think.evaluation.runner import evaluate

    with progress("1/2 answering") as report:
        return evaluate(session, items, METHODS, decode, select, out=folder, progress=report)


def run_measure(
    session: Session, items: list[Item], decode: DecodeConfig, select: SelectConfig, folder: Path
) -> dict[str, Any]:
    """Hit@k, kept beside the results, where the report finds it."""
    from select_to_think.analysis.runs import MEASURE
    from select_to_think.evaluation.measure import measure
    from select_to_think.files import write_json_atomic

    with progress("2/2 measuring Hit@k") as report:
        found = measure(session, items, trigger_budget=select.trigger_budget, decode=decode, progress=report)
    payload = found.to_json()
    write_json_atomic(folder / MEASURE, payload)
    return payload


def telling_item(folder: Path, items: list[Item]) -> Item:
    """A problem that s2t-local solves with few flips and greedy does not; the first one if there is none."""
    from select_to_think.analysis.runs import load_run

    run = load_run(folder, name=folder.name)
    fixed = [record for record in run.records_of("s2t-local") if run.change("s2t-local", record.id) == "fixed"]
    if not fixed:
        return items[0]
    shortest = min(fixed, key=lambda record: (record.flips, record.tokens))
    return next(item for item in items if item.id == shortest.id)


def show(
    console: Console,
    session: Session,
    results: Results,
    measured: dict[str, Any],
    item: Item,
    example: Generation,
    page: Path,
) -> None:
    """The tables, the worked example, and where the report lies."""
    evaluate_command.show(console, page.parent, results)
    measure_command.show(console, measured)
    console.print("\nOne problem that greedy decoding fails and s2t-local solves:\n", style="bold")
    show_generation(console, item.question, example, session.text)
    console.print(f"\nright answer: {item.answer}", markup=False)
    console.print(f"report: {page.resolve()}", markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add `s2t demo`."""
    add_command(app, "demo", demo, resume=AGAIN)
