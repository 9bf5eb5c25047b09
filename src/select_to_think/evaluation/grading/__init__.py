"""Grading: is this text's answer the item's answer?

`extract` finds the answer, `grade` compares it with the gold; each family of rules is one file with the same two
functions. No text makes them crash or hang; what cannot be read is wrong, with a rule that says so.

Non-goals: choosing between answers (see the voting policies), and partial credit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from select_to_think.config import CodeExecution
from select_to_think.evaluation.grading import boolean, choice, code, maths, number
from select_to_think.evaluation.grading import text as text_rules
from select_to_think.evaluation.grading.base import Context, Contradictory, Extraction, Verdict
from select_to_think.structures import S2TError

__all__ = ["FAMILIES", "Contradictory", "Extraction", "Verdict", "extract", "grade", "vote"]


class Family(Protocol):
    """One kind of answer: how it is found in a text, and how it is compared with the gold: (right, by what)."""

    def extract(self, text: str, context: Context) -> Extraction: ...
    def compare(self, extracted: str, answer: str, context: Context) -> tuple[bool, str]: ...


FAMILIES: dict[str, Family] = {
    "text": text_rules, "number": number, "math": maths, "choice": choice, "bool": boolean, "code": code,
}  # fmt: skip


def extract(
    text: str,
    answer_type: str,
    *,
    choices: Sequence[str] | None = None,
    meta: Mapping[str, Any] | None = None,
    contradictory: Contradictory = "last",
) -> Extraction:
    """The answer that `text` gives."""
    context = Context(tuple(choices or ()), meta or {}, contradictory=contradictory)
    return _family(answer_type).extract(text, context)


def vote(text: str, answer_type: str, **about: Any) -> str | None:
    """The answer of `text`, see `extract`, spelled so that equal simple answers are equal strings; None: no answer."""
    found = extract(text, answer_type, **about).extracted
    return text_rules.ballot(found) if found and answer_type == "text" else found


def grade(
    text: str,
    answer: str,
    answer_type: str,
    *,
    choices: Sequence[str] | None = None,
    meta: Mapping[str, Any] | None = None,
    allow_code_execution: CodeExecution | None = None,
    contradictory: Contradictory = "last",
) -> Verdict:
    """Extract the answer of `text` and compare it with the gold `answer`.

    Args:
        text: what the model wrote.
        answer: the gold answer (a number, LaTeX, a choice's letter, yes/no, or for code anything: the tests decide).
        answer_type: a key of `FAMILIES`.
        choices: texts of the choices in letter order.
        meta: the item's `meta` (tolerance and kind of an answer, tests of a program).
        allow_code_execution: code is run only with this (see `sandbox`); without it code items raise.
        contradictory: of several boxes or "the answer is", whether the last counts or the first.

    Raises:
        S2TError: unknown `answer_type`, a missing optional dependency, or code without permission or confinement.
    """
    family = _family(answer_type)
    context = Context(tuple(choices or ()), meta or {}, allow_code_execution, contradictory)
    found = family.extract(text, context)
    if found.extracted is None:
        return Verdict(False, None, f"{answer_type}:{found.rule}")
    right, comparison = family.compare(found.extracted, answer, context)
    return Verdict(right, found.extracted, f"{answer_type}:{found.rule}:{comparison}")


def _family(answer_type: str) -> Family:
    """The rules for one kind of answer."""
    if answer_type not in FAMILIES:
        raise S2TError(f"unknown answer type {answer_type!r}: use one of {', '.join(FAMILIES)}")
    return FAMILIES[answer_type]
