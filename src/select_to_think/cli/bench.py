"""`s2t bench`: what the fast paths save, in ratios inside one run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from select_to_think.cli.options import Only, name_option, numbers
from select_to_think.cli.output import Reply
from select_to_think.cli.progress import progress
from select_to_think.cli.train import SmallModel, trajectories
from select_to_think.config import BenchConfig, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.methods import METHODS
from select_to_think.pairs.problems import DOMAINS
from select_to_think.serving.settings import SERVED_RUNTIME, BenchServeConfig
from select_to_think.structures import S2TError
from select_to_think.training.settings import ScorerConfig, TrainShape

COLLECTION = "collection"  # in the folder of a pair
QUESTIONS_EACH = 32  # of each domain, that a server is asked
ASKING = [name for name, method in METHODS.items() if method.asks_llm]
Repeats = Annotated[int, typer.Option("--repeats", metavar="INT", min=1, help="Medians are over so many.")]


TIMED = ("mode", "score", "bins", "lora_rank", "batch_trajectories", "gradient_checkpointing", "bf16")


PASSED_OVER = 32  # trajectories


def train(
    pair: SmallModel,
    config: Annotated[ScorerConfig, Only(TIMED)],
    shape: TrainShape,
    collection: Annotated[
        list[Path] | None,
        typer.Option("--collection", metavar="FOLDER", help="What `s2t collect` wrote (default: the pair's own)."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="INT", min=1, help=f"Trajectories to pass over (default: {PASSED_OVER})."),
    ] = None,
    repeats: Repeats = 5,
) -> Reply:
    """Packed training against one row per candidate: token-forwards and seconds over the same groups."""
    from select_to_think.session import Session
    from select_to_think.training.bench import bench_shape, bench_train

    if shape.shape != "none":
        if collection or limit or pair != PairConfig(device=pair.device):
            raise S2TError(
                "--shape has random weights and tokens: leave out --collection, --limit, --dtype and the models"
            )
        with progress("timing") as report:
            payload = bench_shape(shape, config, pair.device, repeats=repeats, progress=report)
        return Reply(payload, lambda console: show(console, payload["rows"]))
    session = Session.load(pair)
    if not collection and session.folder is None:
        raise S2TError("name a collection of this SLM with --collection; `s2t collect` writes one")
    folders = collection or [session.folder / COLLECTION]  # type: ignore[operator]
    with progress("timing") as report:
        payload = bench_train(
            session.slm, trajectories(folders), config, limit=limit or PASSED_OVER, repeats=repeats, progress=report
        )
    return Reply(payload, lambda console: show(console, payload["rows"]))


def decode(
    pair: PairConfig,
    config: BenchConfig,
    runtime: Annotated[RuntimeConfig, Only(("compile", "kv_memory_gib", "leaf_tokens"))],
) -> Reply:
    """Time every decoding method in turn: on published shapes with random weights, and on the pair itself."""
    from select_to_think.evaluation.bench import bench_decode
    from select_to_think.session import Session

    questions = validation_questions(config.questions) if config.questions else []
    with progress("timing") as report:
        rows = bench_decode(config, Session.load(pair, runtime), questions, report)
    about = {**asdict(config), "compile": runtime.compile}
    return Reply({"schema": 1, "rows": rows, "config": about}, lambda console: show(console, rows))


def serve(pair: Annotated[PairConfig, Only(("pair",))], config: BenchServeConfig) -> Reply:
    """Serve the bundled pair in one process, ask it from another, and compare with the offline runtime."""
    from select_to_think.serving.bench import bench_serve
    from select_to_think.session import Session

    questions = validation_questions(QUESTIONS_EACH * len(DOMAINS))
    with progress("measuring") as report:
        payload = bench_serve(config, Session.load(pair, RuntimeConfig(**SERVED_RUNTIME)), questions, report)
    return Reply(payload, lambda console: show(console, payload["rows"]))


def remote(
    pair: PairConfig,
    config: Annotated[
        BenchConfig,
        Only(("batch", "new_tokens", "questions", "repeats"), (("batch", "1,8,32"), ("questions", 32), ("repeats", 3))),
    ],
    select: Annotated[SelectConfig, Only(("trigger", "trigger_budget", "candidates"), (("trigger", "entropy"),))],
    latency_ms: Annotated[
        str, typer.Option("--latency-ms", metavar="TEXT", help="Added to every answer; several, comma-separated.")
    ] = "0,10,50,200",
    jitter: Annotated[
        float, typer.Option("--jitter", metavar="FLOAT", min=0, max=1, help="Of the latency, up or down.")
    ] = 0.1,
    method: Annotated[str, name_option("A method that asks the LLM.", ASKING, metavar="NAME")] = "s2t",
) -> Reply:
    """Throughput and latency with the LLM behind a server (--llm http://host:port/v1), further and further away."""
    from select_to_think.evaluation.bench_remote import bench_remote

    latencies = numbers(latency_ms, float, "--latency-ms are milliseconds")
    with progress("timing") as report:
        rows = bench_remote(
            pair,
            validation_questions(max(1, config.questions)),
            method,
            select,
            latencies_ms=latencies,
            batches=config.batches,
            jitter=jitter,
            new_tokens=config.new_tokens,
            repeats=config.repeats,
            progress=report,
        )
    return Reply({"schema": 1, "rows": rows, "method": method}, lambda console: show(console, rows))


def validation_questions(count: int) -> list[str]:
    """The first validation problems of the bundled pair, an equal share of each domain; to any SLM they are text."""
    from select_to_think.evaluation.items import load_pair_split

    items = load_pair_split("validation", limit_per_domain=-(-count // len(DOMAINS)))
    return [item.question for item in items][:count]


def show(console: Console, rows: list[dict[str, Any]]) -> None:
    """The rows of a benchmark; the columns are those of the first row."""
    table = Table()
    for name, value in rows[0].items():
        table.add_column(name.replace("_", " "), justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*map(shown, row.values()))
    console.print(table)


def shown(value: Any) -> str:
    """One value for a person."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
