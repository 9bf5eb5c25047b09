"""From a finished generation to the record of one item: graded, with its triggered steps in words.

Non-goals: storing records (`run_folder.py`) and counting over them (`metrics.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

from select_to_think.config import EvalSettings
from select_to_think.evaluation.grading import Verdict, grade
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.results import PROMPT_TOO_LONG, ItemRecord, Step
from select_to_think.evaluation.statistics import flops
from select_to_think.files import finite
from select_to_think.models.detokenizer import Detokenizer
from select_to_think.structures import Counts, Generation, S2TError, StepRecord

if TYPE_CHECKING:
    from select_to_think.session import Session

CUT_OFF = "cut-off"  # the rule by which an answer that the token limit cut off is wrong
Decode = Callable[[Sequence[int]], str]


def make_record(
    session: Session,
    item: Item,
    method: str,
    generation: Generation,
    seconds: float,
    *,
    prompt_tokens: int,
    settings: EvalSettings,
) -> ItemRecord:
    """Grade one answer and write down how it came about and what it cost. One that was cut off is wrong, unread."""
    if generation.finish_reason == "length":
        verdict = Verdict(False, None, CUT_OFF)
    else:
        verdict = grade(
            generation.text,
            item.answer,
            item.answer_type,
            choices=item.choices,
            meta=item.meta,
            allow_code_execution=settings.allow_code_execution,
            contradictory=settings.contradictory,
        )
    return replace(
        unasked_record(item, method, prompt_tokens),
        text=generation.text,
        extracted=verdict.extracted,
        right=verdict.right,
        rule=verdict.rule,
        finish_reason=generation.finish_reason,
        tokens=len(generation.tokens),
        seconds=seconds,
        steps=step_records(session, generation),
        counts=generation.counts,
        fired=generation.fired_count,
        flips=generation.flip_count,
        votes=list(generation.votes),
        flops=estimated_flops(session, generation.counts, (prompt_tokens + len(generation.tokens)) / 2),
    )


def unasked_record(item: Item, method: str, prompt_tokens: int) -> ItemRecord:
    """The record of an item whose prompt does not fit the context: no answer, so a wrong one."""
    return ItemRecord(
        id=item.id,
        domain=item.domain,
        method=method,
        question=item.question,
        answer=item.answer,
        text="",
        extracted=None,
        right=False,
        rule="none",
        finish_reason=PROMPT_TOO_LONG,
        tokens=0,
        seconds=0.0,
        steps=[],
        counts=Counts(),
        fired=0,
        flips=0,
        subject=None if (subject := (item.meta or {}).get("subject")) is None else str(subject),
        prompt_tokens=prompt_tokens,
        flops=0.0,
    )


def estimated_flops(session: Session, counts: Counts, context: float) -> float | None:
    """Floating-point operations of both models for one answer; None if a model's configuration does not tell.

    `context`: visible positions per token. Half of prompt and answer together is the mean of plain decoding. LoRA is
    left out.
    """
    try:
        slm = flops(session.slm.model.config, counts.slm_tokens_processed, context=context)
        llm = 0.0
        if counts.llm_forwards:
            llm = flops(session.local_llm.model.config, counts.llm_tokens_processed, context=context)
    except S2TError:
        return None
    return slm + llm


def pieces(session: Session, tokens: Sequence[int]) -> list[str]:
    """The text that each token adds; one that ends inside a character adds nothing yet."""
    return list(map(Detokenizer(session.slm.tokenizer).push, tokens))


def step_records(session: Session, generation: Generation) -> list[Step]:
    """The triggered steps of a generation.

    `index`: place among the tokens; `text[start:end]` of the answer is the token, or the segment that it begins (None
    where the tokenizer does not let it be found in the text); `choice`: place among the candidates, None if the choice
    is none of them.
    """
    texts = pieces(session, generation.tokens)
    whole, ends = "".join(texts), [0, *accumulate(map(len, texts))]

    def place(index: int) -> dict[str, int | None]:
        start, end = ends[index], ends[min(len(texts), index + len(generation.steps[index].decided))]
        if generation.text[:end] != whole[:end]:
            return {"start": None, "end": None}
        return {"start": start, "end": end}

    return [
        cast(Step, {**step_json(session.text, step), "index": index, **place(index)})
        for index, step in enumerate(generation.steps)
        if step.fired
    ]


def step_json(decode_text: Decode, step: StepRecord) -> dict[str, Any]:
    """One triggered step without its place. Ids are token ids, log-probabilities nats; None where a value is absent."""
    scores = step.scores or (None,) * len(step.candidates)
    options = step.segments or tuple((token,) for token in step.candidates)
    return {
        "token": step.token,
        "text": decode_text(step.decided),
        "greedy": step.greedy_token,
        "statistic": finite(step.statistic),
        "candidates": [
            {"id": option[0], "text": decode_text(option), "logprob": finite(logprob), "score": finite(score)}
            for option, logprob, score in zip(options, step.candidate_logprobs, scores, strict=True)
        ],
        "choice": step.candidates.index(step.token) if step.token in step.candidates else None,
        "chooser": step.chooser,
        "flip": step.flip,
        "llm_top": step.llm_top_token,
    }


def step_trace(decode_text: Decode, step: StepRecord, index: int, text_added: str) -> dict[str, Any]:
    """Any step as `s2t generate --json` and the server tell it; `text_added`: what its token adds to the answer."""
    alternatives = zip(step.alternatives, step.alternative_logprobs, strict=True)
    return {
        "index": index,
        **step_json(decode_text, step),
        "text_added": text_added,
        "logprob": finite(step.logprob),
        "fired": step.fired,
        "llm_failed": step.llm_failed,
        "alternatives": [
            {"id": token, "text": decode_text([token]), "logprob": logprob} for token, logprob in alternatives
        ],
    }
