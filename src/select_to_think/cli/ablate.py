"""`s2t ablate`: what consultation rate and segment length do to accuracy, mentor share and time."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Annotated, Any

import typer
from rich.console import Console

from select_to_think.analysis.tables import ACCURACY, Column, Table
from select_to_think.cli.data import Out, Style, choose_items, folder_for
from select_to_think.cli.options import Batching, Only, name_option, numbers
from select_to_think.cli.output import Reply, note
from select_to_think.cli.progress import progress
from select_to_think.cli.tables import show_table
from select_to_think.config import DataConfig, EvalSettings, MentorConfig, PairConfig
from select_to_think.methods import METHODS

FIGURE, TABLE = "ablation.svg", "ablation.json"
COLUMNS = (
    Column("consult_rate", "Consult rate", "percent"),
    Column("segment_tokens", "Segment", "count"),
    ACCURACY,
    Column("llm_tokens_share", "Mentor share", "percent"),
    Column("seconds_per_answer", "s/answer", "number"),
)
MENTORS = [name for name, method in METHODS.items() if method.mentor]
VERIFYING = tuple(spec.name for spec in fields(MentorConfig) if spec.name not in ("consult_rate", "segment_tokens"))
Verifying = Annotated[MentorConfig, Only(VERIFYING, presets=True)]


def ablate(
    pair: PairConfig,
    decode: Batching,
    mentor: Verifying,
    data: DataConfig,
    style: Style,
    method: Annotated[str, name_option("Which verifier judges.", MENTORS, metavar="NAME")] = "mentor-free",
    consult_rates: Annotated[
        str, typer.Option(metavar="FRACTIONS", help="Consultation rates, comma-separated.")
    ] = "0,0.05,0.1,0.25,0.5,1",
    segment_lengths: Annotated[
        str, typer.Option(metavar="INTS", help="Segment lengths in tokens, comma-separated.")
    ] = "1,4,8,16,32",
    out: Out = None,
) -> Reply:
    """MentorCollab over a grid of consultation rates and segment lengths: one table, one figure.

    A run that was stopped goes on where it stopped.
    """
    from select_to_think.analysis.figures import draw_ablation
    from select_to_think.evaluation.ablation import ablate as run
    from select_to_think.files import write_json_atomic
    from select_to_think.session import Session

    rates = numbers(consult_rates, float, "--consult-rates are fractions")
    lengths = numbers(segment_lengths, int, "--segment-lengths are numbers of tokens")
    items = choose_items(pair, data, style)
    folder = folder_for("ablate", out, pair, decode, mentor, data, style, method)
    with progress("evaluating") as report:
        cells = run(
            Session.load(pair),
            items,
            method,
            EvalSettings(decode, mentor=mentor),
            folder,
            rates=rates,
            lengths=lengths,
            begun=lambda: note(f"results go to {folder}"),
            progress=report,
        )
    results = [
        {"consult_rate": rate, "segment_tokens": length, **asdict(row), "seconds_per_answer": row.seconds / row.n}
        for (rate, length), row in cells.items()
    ]
    figure = draw_ablation(results, folder / FIGURE)
    payload = {"schema": 1, "method": method, "results": results, "figure": str(figure)}
    write_json_atomic(folder / TABLE, payload)
    return Reply(payload, lambda console: show(console, payload))


def show(console: Console, payload: dict[str, Any]) -> None:
    """A line for each cell."""
    show_table(console, Table(payload["method"], COLUMNS, tuple(payload["results"])))
    console.print(f"figure: {payload['figure']}", soft_wrap=True)
