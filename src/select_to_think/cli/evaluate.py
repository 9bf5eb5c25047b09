"""`s2t eval`: accuracy and cost of several methods over the same questions; `s2t merge`: its shards as one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args

import typer
from rich.console import Console

from select_to_think.cli.data import Out, Style, choose_items, folder_for, models
from select_to_think.cli.options import DATA_PANEL, completing, name_option, numbers
from select_to_think.cli.output import Reply, note
from select_to_think.cli.progress import progress
from select_to_think.config import (
    CodeExecution,
    DataConfig,
    DecodeConfig,
    EvalSettings,
    MentorConfig,
    PairConfig,
    PriceConfig,
    RuntimeConfig,
    SelectConfig,
)
from select_to_think.integrations.ray_workers import RayConfig
from select_to_think.methods import METHODS
from select_to_think.text import comma_separated, unknown_name

if TYPE_CHECKING:
    from select_to_think.evaluation.results import Results

DEFAULT_METHODS = "greedy,maj@8,takeover,s2t,s2t-local,llm"

Methods = Annotated[str, name_option("Methods, comma-separated; N in maj@N is any number.", METHODS, metavar="NAMES")]
Baseline = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="The method with which the others are compared.", autocompletion=completing(METHODS)
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(metavar="INTS", help="Seeds of the methods that draw at random, comma-separated, for --seed."),
]
Share = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Answer only the I-th of N shares (for s2t merge).", rich_help_panel=DATA_PANEL),
]
RunsCode = Annotated[
    str | None,
    typer.Option(
        "--allow-code-execution",
        metavar="[=unconfined]",
        help="Run code that the model wrote, to grade it, confined by the kernel; "
        "unconfined: only inside a container of your own.",
        autocompletion=lambda: get_args(CodeExecution),
        rich_help_panel=DATA_PANEL,
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
    runtime: RuntimeConfig,
    data: DataConfig,
    style: Style,
    prices: PriceConfig,
    ray: RayConfig,
    methods: Methods = DEFAULT_METHODS,
    baseline: Baseline = EvalSettings.baseline,
    seeds: Seeds = None,
    shard: Share = None,
    out: Out = None,
    allow_code_execution: RunsCode = None,
    contradictory: Contradictory = EvalSettings.contradictory,
) -> Reply:
    """Compare methods on the same questions: accuracy with its standard error, tokens, time, LLM use.

    Records and results go to --out; a run that was stopped goes on where it stopped.
    """
    items = choose_items(pair, data, style)
    from select_to_think.evaluation.run_folder import Shard
    from select_to_think.evaluation.runner import evaluate as run

    settings = EvalSettings(
        decode,
        select,
        mentor,
        seeds=numbers(seeds, int, "--seeds are whole numbers from 0") if seeds else (),
        baseline=baseline,
        prices=prices,
        style=style if any(item.prompt is not None for item in items) else None,
        allow_code_execution=code_execution(allow_code_execution),
        contradictory=contradictory,
    )
    chosen, part = comma_separated(methods), None if shard is None else Shard.parse(shard)
    graded = () if contradictory == EvalSettings.contradictory else (contradictory,)
    folder = folder_for("eval", out, pair, decode, select, mentor, data, style, seeds, shard, *graded)

    def begun() -> None:
        note(f"results go to {folder}")
        if data.benchmarks is not None and pair.slm is None:
            note("the bundled pair knows nothing but its own three domains: on benchmarks it is right by chance")

    with models(ray, pair, decode, runtime) as holder, progress("evaluating") as report:
        results = run(holder, items, chosen, settings, out=folder, shard=part, begun=begun, progress=report)
    return Reply(results.to_json(), lambda console: show(console, folder, results))


def code_execution(name: str | None) -> CodeExecution | None:
    """The value of --allow-code-execution. Raises S2TError for an unknown one."""
    if name is not None and name not in get_args(CodeExecution):
        raise unknown_name("code execution", name, get_args(CodeExecution))
    return cast(CodeExecution | None, name)


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
        console.print(remark, style="dim")


def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The folders of all shards.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The folder of the whole run.")],
) -> Reply:
    """Join what `s2t eval --shard 1/N` ... `N/N` wrote into the folder that one process would have left.

    The shards must have the same settings and hold every item once; all rows are counted again.
    """
    from select_to_think.evaluation.merge import merge as run

    results = run(runs, out)
    return Reply(results.to_json(), lambda console: show(console, out, results))
