"""Free short answers: the bundled pair's `The answer is X.`, compared without regard to case and punctuation.

Minus signs and decimal points in numbers are kept, so that "-5" is not "5" and "3.5" is not "35".

Non-goals: synonyms, and any partial credit.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from select_to_think.evaluation.grading.base import NOTHING, Context, Extraction, boxed, clean, sentence, statements

_HASHES = re.compile(r"####[ \t]*([^\n]{1,400})")
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DROPPED = re.compile(r"(?<!\d)\.|\.(?!\d)|-(?!\d)|(?<=\w)-|[^\w\s.\-%/]|_")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def normalise(text: str) -> str:
    """Casefolded, without punctuation, single blanks; numbers keep sign and point and lose separators."""
    text = unicodedata.normalize("NFKC", text[:4000]).casefold().replace("\u2212", "-").replace("\u2013", "-")
    text = _GROUPED.sub("", text)
    return " ".join(_DROPPED.sub(" ", text).split())


def extract(text: str, context: Context) -> Extraction:
    """Levels: "the answer is X", `#### X`, `\\boxed{X}`, a text of one line."""
    text = clean(text)
    for tail in statements(text, context):
        if found := sentence(tail):
            return Extraction(_bare(found), "answer-is")
    for level, found_there in (("hashes", _HASHES.findall(text)), ("boxed", boxed(text))):
        for found in context.preferred(found_there):
            return Extraction(_bare(found), level)
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0]) <= 200:
        return Extraction(_bare(lines[0]), "only-line")
    return NOTHING


def _bare(found: str) -> str:
    """Without quotation marks, emphasis and closing punctuation around it."""
    return found.strip().strip("\"'`*_ ").rstrip(".!,;: ").strip("\"'`*_ $")


def compare(extracted: str, answer: str, context: Context) -> tuple[bool, str]:
    """Equal after `normalise`, or equal as plain numbers ("18.0" and "18")."""
    ours, gold = normalise(extracted), normalise(answer)
    if ours == gold:
        return bool(gold), "same-text"
    if _NUMBER.fullmatch(ours) and _NUMBER.fullmatch(gold):
        return Decimal(ours) == Decimal(gold), "same-number"
    return False, "same-text"
