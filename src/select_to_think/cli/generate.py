"""`s2t generate`: answer questions and show where a choice was made."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from select_to_think.cli.options import Only, name_option
from select_to_think.cli.output import Reply
from select_to_think.cli.trace import LiveAnswer, show_choices, show_result
from select_to_think.config import (
    DataConfig,
    DecodeConfig,
    MentorConfig,
    MethodSettings,
    PairConfig,
    RuntimeConfig,
    SelectConfig,
)
from select_to_think.methods import METHODS
from select_to_think.structures import Generation, S2TError

if TYPE_CHECKING:
    from select_to_think.session import Session

EXAMPLE = 's2t generate "Today Ida has 27 keys. ..."'


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
        name_option("How to decode; N in maj@N is any number.", METHODS, metavar="NAME", rich_help_panel="Selection"),
    ] = "s2t-local",
) -> Reply:
    """Answer questions; triggered steps are marked and flips are coloured, with the candidates and their scores.

    On a terminal the answer to a single question is shown as it is written.
    """
    asked = list(questions or [])
    if data.data is not None:
        from select_to_think.evaluation.items import load_items

        asked += [item.question for item in load_items(data.data, limit_per_domain=data.limit)]
    if not asked:
        raise S2TError(f"there is no question; give one in quotes ({EXAMPLE}) or name a file with --data")
    from select_to_think.session import Session

    session, settings = Session.load(pair, runtime), MethodSettings(decode, select, mentor)

    def payload() -> dict[str, Any]:
        answers = session.generate(asked, method, decode, select, mentor)
        results = [describe(question, answer, session) for question, answer in zip(asked, answers, strict=True)]
        return {"schema": 1, "method": method, "results": results}

    def show(console: Console) -> None:
        if len(asked) == 1 and console.is_terminal:
            stream(console, session, asked[0], method, settings)
            return
        for index, result in enumerate(payload()["results"]):
            if index:
                console.rule()
            show_result(console, result)

    return Reply(payload, show)


def stream(console: Console, session: Session, question: str, method: str, settings: MethodSettings) -> None:
    """Show the answer to one question as it is written."""
    from select_to_think.cli.chat.local import LocalChat

    answer = LiveAnswer()
    with closing(LocalChat(session).answer(question, method, settings)) as parts:
        first = next(parts)  # what cannot be answered leaves nothing behind
        console.print(question, style="dim", soft_wrap=True)
        answer.show(console, chain([first], parts))
    assert answer.ending is not None
    show_choices(console, answer.steps, answer.ending.votes, answer.ending.finish_reason)


def describe(question: str, answer: Generation, session: Session) -> dict[str, Any]:
    """One answer with its whole trace, as JSON."""
    from select_to_think.evaluation.tracing import pieces, step_trace

    steps = [
        step_trace(session.text, step, index, piece)
        for index, (step, piece) in enumerate(zip(answer.steps, pieces(session, answer.tokens), strict=True))
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
