"""Free short answers: the bundled pair's `The answer is X.`, compared without regard to case and punctuation.

Minus signs and decimal points in numbers are kept, so that "-5" is not "5" and "3.5" is not "35".

Non-goals: synonyms, and any partial credit.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from select_to_think.evaluation.grading.base import (
    NOTHING,
    Context,
    Extraction,
    boxed,
    clean,
    sentence,
    statements,
    unmarked,
)

_HASHES = re.compile(r"####[ \t]*([^\n]{1,400})")
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DROPPED = re.compile(r"(?<!\d)\.|\.(?!\d)|-(?!\d)|(?<=\w)-|[^\w\s.\-%/]|_")
_PARENTHESES = re.compile(r"^\((\w+)\)$")
_AMOUNT = re.compile(r"[$\u20ac\u00a3]?[-\u2212]?\d[\d,]*(?:\.\d+)?")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def normalise(text: str) -> str:
    """Casefolded, without punctuation, single blanks; numbers keep sign and point and lose separators."""
    text = unicodedata.normalize("NFKC", text[:4000]).casefold().replace("\u2212", "-").replace("\u2013", "-")
    text = _GROUPED.sub("", text)
    return " ".join(_DROPPED.sub(" ", text).split())


def extract(text: str, context: Context) -> Extraction:
    """Levels: "the answer is X" or "the answer is \\boxed{X}", `#### X`, `\\boxed{X}`, a text of one line."""
    text = clean(text)
    for tail in statements(text, context):
        if found := sentence(tail):
            inside = boxed(found)
            return Extraction(_bare(inside[-1] if inside else found), "answer-is")
    for level, found_there in (("hashes", _HASHES.findall(text)), ("boxed", boxed(text))):
        for found in context.preferred(found_there):
            return Extraction(_bare(found), level)
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0]) <= 200:
        return Extraction(_bare(lines[0]), "only-line")
    return NOTHING


def _bare(found: str) -> str:
    """Without markup, quotation marks and closing punctuation around it."""
    return unmarked(found).strip().strip("\"'`*_ ").rstrip(".!,;: ").strip("\"'`*_ $")


def ballot(answer: str) -> str:
    """One spelling of answers that are one number, or the same words but for case; signs keep others apart."""
    bare = _PARENTHESES.sub(r"\1", " ".join(answer.casefold().split()))
    return canonical(bare) if _AMOUNT.fullmatch(bare) else bare


def canonical(answer: str) -> str:
    """One spelling of all answers that `compare` takes for equal."""
    spelled = normalise(answer)
    if not _NUMBER.fullmatch(spelled):
        return spelled
    number = f"{Decimal(spelled):f}"
    number = number.rstrip("0").rstrip(".") if "." in number else number
    return "0" if number == "-0" else number


def compare(extracted: str, answer: str, context: Context) -> tuple[bool, str]:
    """Equal after `normalise`, or equal as plain numbers ("18.0" and "18")."""
    ours, gold = canonical(extracted), canonical(answer)
    return bool(gold) and ours == gold, "same-number" if _NUMBER.fullmatch(gold) else "same-text"
