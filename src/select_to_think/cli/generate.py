"""`s2t generate`: answer questions and show where a choice was made."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from select_to_think.cli.command import add_command
from select_to_think.cli.options import Only
from select_to_think.cli.output import Reply
from select_to_think.cli.trace import Decode, show_generation
from select_to_think.config import DataConfig, DecodeConfig, MentorConfig, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.structures import Generation, S2TError

if TYPE_CHECKING:
    from select_to_think.session import Session

EXAMPLE = 's2t generate "Today Ida has 23 keys. ..."'


def generate(
    pair: PairConfig,
    decode: DecodeConfig,
    select: SelectConfig,
    mentor: MentorConfig,
    runtime: RuntimeConfig,
    data: Annotated[DataConfig, Only(("data", "limit"))],
    questions: Annotated[list[str] | None, typer.Argument(help="The questions, each in quotes.")] = None,
    method: Annotated[
        str,
        typer.Option(
            help="greedy, sample, maj@N, llm, takeover, s2t, s2t-local, mentor-free, mentor-mlp ...",
            rich_help_panel="Selection",
        ),
    ] = "s2t-local",
) -> Reply:
    """Answer questions; triggered steps are marked and flips are coloured, with the candidates and their scores."""
    asked = list(questions or [])
    if data.data is not None:
        from select_to_think.evaluation.items import load_items

        asked += [item.question for item in load_items(data.data, limit_per_domain=data.limit)]
    if not asked:
        raise S2TError(f"there is no question; give one in quotes ({EXAMPLE}) or name a file with --data")
    from select_to_think.session import Session

    session = Session.load(pair, runtime)
    answers = session.generate(asked, method, decode, select, mentor)
    results = [describe(question, answer, session.text) for question, answer in zip(asked, answers, strict=True)]
    payload = {"schema": 1, "method": method, "results": results}
    return Reply(payload, lambda console: show(console, asked, answers, session))


def describe(question: str, answer: Generation, decode: Decode) -> dict[str, Any]:
    """One answer with its whole trace, as JSON."""
    from select_to_think.evaluation.tracing import pieces, step_trace

    steps = [
        step_trace(decode, step, index, piece)
        for index, (step, piece) in enumerate(zip(answer.steps, pieces(decode, answer.tokens), strict=True))
    ]
    return {
        "question": question,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": list(answer.tokens),
        "votes": list(answer.votes),
        "fired": answer.fired_count,
        "flips": answer.flip_count,
        "counts": asdict(answer.counts),
        "steps": steps,
    }


def show(console: Console, questions: list[str], answers: list[Generation], session: Session) -> None:
    """The answers one after the other."""
    for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        if index:
            console.rule()
        show_generation(console, question, answer, session.text)


def register(app: typer.Typer) -> None:
    """Add `s2t generate`."""
    add_command(app, "generate", generate)
