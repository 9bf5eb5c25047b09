"""`s2t demo`: the whole idea on the bundled pair, in a few minutes on two cores, without training anything."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from select_to_think.analysis.tables import Column, Table
from select_to_think.cli import evaluate as evaluate_command
from select_to_think.cli import measure as measure_command
from select_to_think.cli.data import Out, folder_for
from select_to_think.cli.generate import describe
from select_to_think.cli.options import DATA_PANEL, Only
from select_to_think.cli.output import Reply, note
from select_to_think.cli.progress import progress
from select_to_think.cli.report import FILE_NAME as REPORT
from select_to_think.cli.tables import show_table
from select_to_think.cli.trace import show_result
from select_to_think.config import DecodeConfig, EvalSettings, PairConfig, ScoreKind, ScorerMode, SelectConfig

if TYPE_CHECKING:
    from select_to_think.evaluation.items import Item
    from select_to_think.evaluation.results import ResultRow, Results, SufficiencyRow

LOCAL = "s2t-local"
METHODS = ("greedy", "maj@8", LOCAL, "distill", "mentor-free", "mentor-mlp", "s2t", "takeover", "llm")
SPLIT = "test"

BigBatches = Annotated[DecodeConfig, Only(("max_new_tokens", "max_batch", "seed"), (("max_batch", 128),))]
Bundled = Annotated[PairConfig, Only(("pair", "device", "dtype"))]
Budget = Annotated[SelectConfig, Only(("trigger_budget", "scorer_mode", "score"))]


def demo(
    pair: Bundled,
    decode: BigBatches,
    select: Budget,
    limit: Annotated[
        int, typer.Option("--limit", metavar="INT", min=1, help="Test problems per domain.", rich_help_panel=DATA_PANEL)
    ] = 500,
    out: Out = None,
) -> Reply:
    """See the whole idea on the bundled pair: select, take over, S2T-Local and the baselines on its test problems.

    Trains nothing. Ends with a table, a worked example and the path of an HTML report.
    """
    from select_to_think.analysis.report import write_report
    from select_to_think.evaluation.items import load_pair_split
    from select_to_think.evaluation.measure import measure
    from select_to_think.evaluation.results import MEASURE
    from select_to_think.evaluation.runner import evaluate
    from select_to_think.session import Session

    items = load_pair_split(SPLIT, limit_per_domain=limit)
    folder = folder_for("demo", out, pair, decode, select, limit)
    session = Session.load(pair)
    note(f"{len(items)} test problems, {len(METHODS)} methods; everything goes to {folder}")
    settings = EvalSettings(decode, select)
    with progress("1/3 answering") as report:
        results = evaluate(session, items, METHODS, settings, out=folder, progress=report)
    scorers = {scorer_name(select): local_rows(results), **run_scorers(pair, items, settings, folder)}
    measured = None
    if session.shares_vocabulary and select.trigger_budget:
        with progress("3/3 measuring Hit@k") as report:
            measured = measure(session, items, select=select, decode=decode, progress=report)
        measured.save(folder / MEASURE)  # where the report finds it
    heading, item = telling_item(folder, items)
    answer = session.generate([item.question], LOCAL, decode, select)[0]
    example = describe(item.question, answer, session)
    page = write_report([folder], folder / REPORT)
    payload = {
        **results.to_json(),
        "scorers": {name: [asdict(row) for row in rows] for name, rows in scorers.items()},
        "measure": [] if measured is None else measured.to_json()["results"],
        "example": example,
        "report": str(page),
    }
    return Reply(payload, lambda console: show(console, results, scorers, measured, heading, item, example, page))


def scorer_name(select: SelectConfig) -> str:
    """The folder of a shipped scorer."""
    return f"{select.scorer_mode}-{select.score}"


def local_rows(results: Results) -> list[ResultRow]:
    """The rows of s2t-local."""
    return [row for row in results.rows if row.method == LOCAL]


def run_scorers(
    pair: PairConfig, items: list[Item], settings: EvalSettings, folder: Path
) -> dict[str, list[ResultRow]]:
    """s2t-local with every other scorer that comes with the pair; the rows of each."""
    from select_to_think.evaluation.meter import Meter
    from select_to_think.evaluation.runner import evaluate
    from select_to_think.pairs import bundled_folder
    from select_to_think.session import Session

    found: dict[str, list[ResultRow]] = {}
    shipped = sorted(path.name for path in (bundled_folder(pair.pair) / "scorers").iterdir() if path.is_dir())
    others = [name for name in shipped if name != scorer_name(settings.select)]
    with progress("2/3 trying the other scorers") as report:
        meter = Meter(dict.fromkeys(others, len(items)), report)
        for name in others:
            mode, score = name.split("-")
            select = replace(settings.select, scorer_mode=cast(ScorerMode, mode), score=cast(ScoreKind, score))
            own = replace(settings, select=select)
            out, part = folder / "scorers" / name, meter.part(name)
            found[name] = local_rows(evaluate(Session.load(pair), items, [LOCAL], own, out=out, progress=part))
    return found


def scorer_table(scorers: dict[str, list[ResultRow]]) -> Table:
    """Accuracy of s2t-local by scorer (mode and score) and domain."""
    lines = [
        {"scorer": name, **asdict(rows[-1]), **{f"accuracy:{row.domain}": row.accuracy for row in rows}}
        for name, rows in scorers.items()
    ]
    domains = [row.domain for row in next(iter(scorers.values()))]
    accuracies = (Column(f"accuracy:{domain}", domain, "percent") for domain in domains)
    rates = (Column("trigger_rate", "Triggered", "percent"), Column("flip_rate", "Flips", "percent"))
    columns = (Column("scorer", "Scorer", "text"), *accuracies, *rates)
    return Table(f"Accuracy of {LOCAL} by scorer", columns, tuple(lines))


def telling_item(folder: Path, items: list[Item]) -> tuple[str, Item]:
    """A problem that s2t-local solves with few flips and greedy does not, under a heading; the first one if there is
    none."""
    from select_to_think.analysis.runs import load_run

    run = load_run(folder, name=folder.name)
    fixed = [record for record in run.records_of(LOCAL) if run.change(LOCAL, record.id) == "fixed"]
    if not fixed:
        return "One problem:", items[0]
    shortest = min(fixed, key=lambda record: (record.flips, record.tokens))
    told = next(item for item in items if item.id == shortest.id)
    return "One problem that greedy decoding fails and s2t-local solves:", told


def show(
    console: Console,
    results: Results,
    scorers: dict[str, list[ResultRow]],
    measured: Results[SufficiencyRow] | None,
    heading: str,
    item: Item,
    example: dict[str, Any],
    page: Path,
) -> None:
    """The tables, the worked example, and where the report lies."""
    evaluate_command.show(console, page.parent, results)
    show_table(console, scorer_table(scorers))
    if measured is not None:
        measure_command.show(console, measured)
    console.print(f"\n{heading}\n", style="bold")
    show_result(console, example)
    console.print(f"\nright answer: {item.answer}")
    console.print(f"report: {page.resolve()}", soft_wrap=True)
