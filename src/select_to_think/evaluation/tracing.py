"""From a finished generation to the record of one item: graded, with its triggered steps in words.

Non-goals: storing records (`runner.py`) and counting over them (`metrics.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from select_to_think.evaluation.grading import grade
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.results import ItemRecord
from select_to_think.structures import Generation, StepRecord

if TYPE_CHECKING:
    from select_to_think.session import Session


def make_record(
    session: Session,
    item: Item,
    method: str,
    generation: Generation,
    seconds: float,
    *,
    allow_code_execution: bool = False,
) -> ItemRecord:
    """Grade one answer and write down how it came about."""
    verdict = grade(
        generation.text,
        item.answer,
        item.answer_type,
        choices=item.choices,
        meta=item.meta,
        allow_code_execution=allow_code_execution,
    )
    return ItemRecord(
        id=item.id,
        domain=item.domain,
        method=method,
        question=item.question,
        answer=item.answer,
        text=generation.text,
        extracted=verdict.extracted,
        right=verdict.right,
        rule=verdict.rule,
        finish_reason=generation.finish_reason,
        tokens=len(generation.tokens),
        seconds=seconds,
        steps=step_records(session.text, generation),
        counts=generation.counts,
        fired=generation.fired_count,
        flips=generation.flip_count,
        votes=list(generation.votes),
    )


def step_records(decode_text: Callable[[Sequence[int]], str], generation: Generation) -> list[dict[str, Any]]:
    """The triggered steps of a generation.

    `index`: place among the tokens; `text[start:end]` of the answer is the token (None where the tokenizer does not let
    a token be found in the text); `choice`: place among the candidates, None if the choice is none of them.
    """
    return [
        {**step_json(decode_text, step), "index": index, **_place(decode_text, generation, index)}
        for index, step in enumerate(generation.steps)
        if step.fired
    ]


def step_json(decode_text: Callable[[Sequence[int]], str], step: StepRecord) -> dict[str, Any]:
    """One triggered step without its place. Ids are token ids, log-probabilities nats; None where a value is absent."""
    scores = step.scores or (None,) * len(step.candidates)
    return {
        "token": step.token,
        "text": decode_text([step.token]),
        "greedy": step.greedy_token,
        "statistic": _finite(step.statistic),
        "candidates": [
            {"id": token, "text": decode_text([token]), "logprob": _finite(logprob), "score": _finite(score)}
            for token, logprob, score in zip(step.candidates, step.candidate_logprobs, scores, strict=True)
        ],
        "choice": step.candidates.index(step.token) if step.token in step.candidates else None,
        "chooser": step.chooser,
        "flip": step.flip,
        "llm_top": step.llm_top_token,
    }


def _place(decode_text: Callable[[Sequence[int]], str], generation: Generation, index: int) -> dict[str, int | None]:
    """Where a token stands in the answer's text."""
    before = decode_text(generation.tokens[:index])
    through = decode_text(generation.tokens[: index + 1])
    if not (generation.text.startswith(through) and through.startswith(before)):
        return {"start": None, "end": None}
    return {"start": len(before), "end": len(through)}


def _finite(value: float | None) -> float | None:
    """What JSON can hold: a masked candidate's -inf becomes None."""
    return value if value is not None and math.isfinite(value) else None
