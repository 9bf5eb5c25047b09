"""`s2t eval`: accuracy and cost of several methods over the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from select_to_think.cli.command import AGAIN, add_command
from select_to_think.cli.data import Out, Style, choose_items, folder_for
from select_to_think.cli.options import DATA_PANEL
from select_to_think.cli.output import Reply, note
from select_to_think.cli.progress import progress
from select_to_think.config import (
    DataConfig,
    DecodeConfig,
    EvalSettings,
    MentorConfig,
    PairConfig,
    PriceConfig,
    SelectConfig,
)
from select_to_think.structures import S2TError, comma_separated

if TYPE_CHECKING:
    from select_to_think.evaluation.results import Results

METHODS = "greedy,maj@8,takeover,s2t,s2t-local,llm"

Methods = Annotated[str, typer.Option(metavar="NAMES", help="Methods, comma-separated; N in maj@N is any number.")]
Baseline = Annotated[str, typer.Option(metavar="NAME", help="The method with which the others are compared.")]
Seeds = Annotated[
    str | None,
    typer.Option(metavar="INTS", help="Seeds of the methods that draw at random, comma-separated, for --seed."),
]
Share = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Answer only the I-th of N shares (for s2t merge).", rich_help_panel=DATA_PANEL),
]
RunsCode = Annotated[
    bool,
    typer.Option(
        "--allow-code-execution", help="Run code that the model wrote, to grade it.", rich_help_panel=DATA_PANEL
    ),
]

Contradictory = Annotated[
    Literal["last", "first"],
    typer.Option(help="Of contradictory statements in an answer, which one is graded.", rich_help_panel=DATA_PANEL),
]


def evaluate(
    pair: PairConfig,
    decode: DecodeConfig,
    select: SelectConfig,
    mentor: MentorConfig,
    data: DataConfig,
    style: Style,
    prices: PriceConfig,
    methods: Methods = METHODS,
    baseline: Baseline = EvalSettings.baseline,
    seeds: Seeds = None,
    shard: Share = None,
    out: Out = None,
    allow_code_execution: RunsCode = EvalSettings.allow_code_execution,
    contradictory: Contradictory = EvalSettings.contradictory,
) -> Reply:
    """Compare methods on the same questions: accuracy with its standard error, tokens, time, LLM use.

    Records and results go to --out; a run that was stopped goes on where it stopped.
    """
    items = choose_items(pair, data, style)
    from select_to_think.evaluation.run_folder import Shard
    from select_to_think.evaluation.runner import evaluate as run
    from select_to_think.session import Session

    settings = EvalSettings(
        decode,
        select,
        mentor,
        seeds=numbers(seeds or ""),
        baseline=baseline,
        prices=prices,
        style=style if any(item.prompt is not None for item in items) else None,
        allow_code_execution=allow_code_execution,
        contradictory=contradictory,
    )
    chosen, part = comma_separated(methods), None if shard is None else Shard.parse(shard)
    graded = () if contradictory == EvalSettings.contradictory else (contradictory,)
    folder = folder_for("eval", out, pair, decode, select, mentor, data, style, seeds, shard, *graded)

    def begun() -> None:
        note(f"results go to {folder}")
        if data.benchmarks is not None and pair.slm is None:
            note("the bundled pair knows nothing but its own three domains: on benchmarks it is right by chance")

    with progress("evaluating") as report:
        results = run(Session.load(pair), items, chosen, settings, out=folder, shard=part, begun=begun, progress=report)
    return Reply(results.to_json(), lambda console: show(console, folder, results))


def numbers(text: str) -> list[int]:
    """The seeds in a comma-separated list. Raises S2TError for anything but numbers from 0."""
    found = comma_separated(text)
    wrong = [seed for seed in found if not seed.isdecimal()]
    if wrong:
        raise S2TError(f"seeds are whole numbers from 0, comma-separated, got {wrong[0]!r}")
    return [int(seed) for seed in found]


def show(console: Console, folder: Path, results: Results) -> None:
    """The table over all domains, then accuracy by domain."""
    from select_to_think.analysis.runs import load_run
    from select_to_think.analysis.tables import domain_table, results_table
    from select_to_think.cli.tables import show_table

    run = load_run(folder, name=folder.name)
    show_table(console, results_table([run]))
    if len(run.domains) > 1:
        show_table(console, domain_table(run))
    for remark in results.provenance["notes"]:
        console.print(remark, style="dim", markup=False)


def register(app: typer.Typer) -> None:
    """Add `s2t eval`."""
    add_command(app, "eval", evaluate, resume=AGAIN)
