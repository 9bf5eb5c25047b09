"""Mathematical answers: LaTeX or plain text, compared by form first and by math-verify where the form differs.

Equal spellings and plain numbers are settled here; everything else goes to math-verify in a process of its own
(`maths_process`), which has one limit of time for a whole verdict.

Non-goals: proofs, and answers longer than a line or two: those are rejected, not guessed.
"""

from __future__ import annotations

import re
from itertools import pairwise

from select_to_think.evaluation.grading import latex, maths_process, number
from select_to_think.evaluation.grading.base import NOTHING, Context, Extraction, clean, end_boxes, sentence, statements

MAX_LENGTH = 1_000  # characters of an expression that is still compared

_HASHES = re.compile(r"####([^\n]{1,400})")
_MATH = re.compile(
    r"\$\$(.{1,2000}?)\$\$|(?<!\\)\$([^$\n]{1,1000}?)(?<!\\)\$|\\\[(.{1,2000}?)\\\]|\\\((.{1,1000}?)\\\)", re.DOTALL
)
_JOINED = re.compile(r"[\s,;$]*(?:and|or|,|;)[\s,;$]*|[\s,;$]+")
_LEAD = re.compile(
    r"^(?:(?:simply|therefore|thus|just|exactly|equal to|given by|approximately|about|a|an|the)\s+)+", re.I
)
_SAYS_NUMBER = re.compile(
    r"\b(?:is|are|was|be|equals|=|\w*(?:creases|rises|falls|drops|grows|amounts|comes) (?:by|to)"
    r"(?=\s\S{0,20}\d\S{0,20}(?: [a-z]+)?\.?\s*$))\s[^.\n=]{0,40}?(?<![\w.])-?\d"
)
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def extract(text: str, context: Context) -> Extraction:
    """Levels: `\\boxed{}`, `#### X`, "the answer is X", the last formula of the text, its last number."""
    text = clean(text)
    for level, places in (("boxed", end_boxes(text, context)), ("hashes", context.preferred(_HASHES.findall(text)))):
        for found in filter(str.strip, places):
            return Extraction(_spelled(found), level)
    for tail in statements(text, context):
        if stated := _stated(tail):
            return Extraction(_spelled(stated), "answer-is")
    formulas = [match for match in _MATH.finditer(text, max(0, len(text) - 20_000)) if re.search(r"\w", match.group())]
    if formulas and not (last := _number_after(text[formulas[-1].end() :])):
        return Extraction(_spelled(_result(_formula(formulas[-1]))), "last-formula")
    if formulas:
        return Extraction(last, "last-number")
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0]) <= 100 and not _is_prose(lines[0]):
        return Extraction(_spelled(lines[0]), "only-line")
    if value := number.last_number(text):
        return Extraction(str(value), "last-number")
    return NOTHING


def _spelled(text: str) -> str:
    """The normalised spelling, bounded; an answer that is too long is kept as its beginning and never compared."""
    return latex.normalise(text[: MAX_LENGTH + 1]) if len(text) <= MAX_LENGTH else text[: MAX_LENGTH + 1]


def _formula(match: re.Match[str]) -> str:
    """What stands between the dollar signs or LaTeX brackets."""
    return next(group for group in match.groups() if group is not None)


def _result(formula: str) -> str:
    """Of a chain `a = b = c` the last side, of `x = 5` the number; other equations and lists as they are."""
    last = latex.last_side(formula)
    ends_in_number = last == latex.without_name(formula) and number.value_of(last) is not None
    return last if len(latex.split(formula, ",")) < 2 and (formula.count("=") > 1 or ends_in_number) else formula


def _is_prose(text: str) -> bool:
    """Whether words lead up to what is said: "There are 12 ways", but not "5 red balls" or "x = 5"."""
    words = _PROSE.findall(text)
    return len(words) > 1 and re.search(r"\d", text) is not None and not re.match(r"[\s\W]*\d[^=]*$", text)


def _number_after(text: str) -> str:
    """The number in a text behind a formula, where it says one ("The largest $n$ is 34."), else ""."""
    match = _SAYS_NUMBER.search(text)
    value = number.result(number.plain(sentence(text[match.start() :]))) if match else None
    return "" if value is None else str(value)


def _stated(tail: str) -> str:
    """The answer in what follows "the answer is": its formulas where it has any, else its first sentence."""
    said = sentence(tail)
    found = list(_MATH.finditer(said))
    if not found:
        display = _MATH.match(tail.lstrip(" \n\t:*"))
        if display is not None:
            return _formula(display)
        bare = _LEAD.sub("", said.strip("*_` \"'")).strip("*_` \"'")
        value = number.result(number.plain(bare)) if _is_prose(bare) else None
        return bare if value is None else str(value)
    if after := _number_after(said[found[-1].end() :]):
        return after
    lead = said[: found[0].start()]
    if number.numbers(lead) or _LEAD.sub("", lead).count(" ") > 8:
        return said.replace("$", " ") if len(said) < 60 else _formula(found[-1])
    joined = [_formula(found[0])]
    for before, match in pairwise(found):
        if not _JOINED.fullmatch(said, before.end(), match.start()):
            break
        joined.append(_formula(match))
    return ", ".join(joined)


def compare(extracted: str, answer: str, context: Context) -> tuple[bool, str]:
    """Equal by form, by number, or by the judge (`maths_judge`); the second value names which.

    Of a gold with `meta["multiple"]` a comma separates answers, never digits. `meta["tolerance"]` is absolute.
    """
    if max(len(extracted), len(answer)) > MAX_LENGTH:
        return latex.compact(extracted) == latex.compact(answer), "too-long"
    tolerance = context.meta.get("tolerance")
    slack = None if tolerance is None else float(str(tolerance))
    several = "," in answer + extracted
    spellings: dict[tuple[str, str], None] = {}
    for grouped in (False,) if context.meta.get("multiple") else (True, False) if several else (True,):
        gold, ours = (latex.normalise(text, grouped=grouped) for text in (answer, extracted))
        if latex.compact(gold) == latex.compact(ours):
            return bool(gold), "form"
        spellings[gold, ours] = None
    values = number.value_of(gold), number.value_of(ours)
    if values[0] is not None and values[1] is not None and not several:
        return number.same(values[1], values[0], slack), "number"
    if len(ours) > 4 * len(gold) + 200 or len(_PROSE.findall(ours)) > len(_PROSE.findall(gold)) + 5:
        return False, "no-formula"
    verdict = maths_process.same(tuple(spellings), slack)
    return bool(verdict), "math-verify" if verdict is not None else "timeout"
