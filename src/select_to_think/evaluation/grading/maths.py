"""Mathematical answers: LaTeX or plain text, compared by form first and by math-verify where the form differs.

Lists, tuples, intervals, sets and matrices are taken apart here (order counts only where it means something); single
expressions that differ in spelling go to math-verify in a process of its own (`maths_process`).

Non-goals: proofs, and answers longer than a line or two: those are rejected, not guessed.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

from select_to_think.evaluation.grading import latex, maths_process, number
from select_to_think.evaluation.grading.base import NOTHING, Context, Extraction, boxed, clean, sentence, statements

MAX_LENGTH = 1_000  # characters of an expression that is still compared
MAX_DEPTH = 40  # of nested brackets
MAX_PARTS = 60

_HASHES = re.compile(r"####([^\n]{1,400})")
_MATH = re.compile(
    r"\$\$(.{1,2000}?)\$\$|(?<!\\)\$([^$\n]{1,1000}?)(?<!\\)\$|\\\[(.{1,2000}?)\\\]|\\\((.{1,1000}?)\\\)", re.DOTALL
)
_JOINED = re.compile(r"[\s,;$]*(?:and|or|,|;)[\s,;$]*|[\s,;$]+")
_LEAD = re.compile(
    r"^(?:(?:simply|therefore|thus|just|exactly|equal to|given by|approximately|about|a|an|the)\s+)+", re.I
)
_BOX_END = re.compile(r"\}[\s$.]*")
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
_BASE = re.compile(r"([\dA-Fa-f]+)_\{?(\d+|[a-z]+)\}?")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_TOWER = re.compile(r"(?:\^\s*\{?\s*\w{1,20}\s*\}?\s*){4}")
_PLAIN_LOG = re.compile(r"\\log(?!\s*_)(?![a-zA-Z])")
_WORDS = re.compile(r"(?=.*[A-Za-z]{3})[A-Za-z]+(?:[ '\-][A-Za-z]+)*")


def extract(text: str, context: Context) -> Extraction:
    """Levels: `\\boxed{}`, `#### X`, "the answer is X", the last formula of the text, its last number."""
    text = clean(text)
    if boxes := boxed(text):
        return Extraction(_spelled(_last_boxes(text, boxes)), "boxed")
    for found in reversed(_HASHES.findall(text)):
        if found.strip():
            return Extraction(_spelled(found), "hashes")
    for tail in statements(text):
        if stated := _stated(tail):
            return Extraction(_spelled(stated), "answer-is")
    if formulas := [found for found in _formulas(text[-20_000:]) if re.search(r"[\dA-Za-z]", found)]:
        return Extraction(_spelled(formulas[-1].rsplit("=", 1)[-1] or formulas[-1]), "last-formula")
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0]) <= 100:
        return Extraction(_spelled(lines[0]), "only-line")
    if values := number.numbers(number.plain(text)):
        return Extraction(str(values[-1]), "last-number")
    return NOTHING


def _spelled(text: str) -> str:
    """The normalised spelling, bounded; an answer that is too long is kept as its beginning and never compared."""
    return latex.normalise(text[: MAX_LENGTH + 1]) if len(text) <= MAX_LENGTH else text[: MAX_LENGTH + 1]


def _last_boxes(text: str, boxes: list[str]) -> str:
    """The last box, with those joined to it by "and", "or" or a comma ("\\boxed{1} and \\boxed{2}")."""
    parts = re.split(r"\\(?:boxed|fbox)\s*\{", text[-4000:])[-len(boxes) :]
    joined = [boxes[-1]]
    for box, part in zip(reversed(boxes[:-1]), reversed(parts[:-1]), strict=False):
        rest = part[len(box) :]
        if not part.startswith(box) or not re.fullmatch(
            r"\s*\}[\s$]*(?:,|;|and|or|,\s*and|,\s*or)[\s$]*(?:\w\s*=\s*)?", rest
        ):
            break
        if box not in joined:
            joined.insert(0, box)
    return ", ".join(joined)


def _formulas(text: str) -> list[str]:
    """The formulas between dollar signs or LaTeX brackets, in order."""
    return [next(group for group in match.groups() if group is not None) for match in _MATH.finditer(text)]


def _stated(tail: str) -> str:
    """The answer in what follows "the answer is": its formulas where it has any, else its first sentence."""
    said = sentence(tail)
    found = list(_MATH.finditer(said))
    if not found:
        display = _MATH.match(tail.lstrip(" \n\t:*"))
        if display is not None:
            return _formulas(display.group())[0]
        return _LEAD.sub("", said.strip("*_` \"'")).strip("*_` \"'")
    lead = said[: found[0].start()]
    if number.numbers(lead) or _LEAD.sub("", lead).count(" ") > 8:
        return said.replace("$", " ") if len(said) < 60 else _formulas(said)[-1]
    joined = [_formulas(found[0].group())[0]]
    for before, match in pairwise(found):
        if not _JOINED.fullmatch(said, before.end(), match.start()):
            break
        joined.append(_formulas(match.group())[0])
    return ", ".join(joined)


def compare(extracted: str, answer: str, context: Context) -> tuple[bool, str]:
    """Equal by form, by number, part by part, or by math-verify; the second value names which.

    A list of several golds (`meta["multiple"]`) is compared without order. `meta["tolerance"]` is absolute.
    """
    if max(len(extracted), len(answer)) > MAX_LENGTH or max(latex.depth(extracted), latex.depth(answer)) > MAX_DEPTH:
        return latex.compact(extracted) == latex.compact(answer), "too-long"
    if tolerance := context.meta.get("tolerance"):
        ours, gold = (number.value_of(latex.normalise(text)) for text in (extracted, answer))
        if ours is not None and gold is not None:
            slack = Fraction(str(float(str(tolerance))))
            return any(abs(x - gold.value) <= slack for x in ours.readings), "within-tolerance"
    comparison = "form"
    for grouped in (True, False):
        gold_text, our_text = (latex.normalise(text, grouped=grouped) for text in (answer, extracted))
        if latex.compact(gold_text) == latex.compact(our_text):
            return bool(gold_text), "form"
        right, comparison = _same(gold_text, our_text, levels=4)
        if right:
            return True, comparison
        if "," not in answer + extracted:
            break
    return False, comparison


def _same(gold: str, ours: str, *, levels: int) -> tuple[bool, str]:
    """Whether two normalised expressions are the same: as a whole, or part by part."""
    if _PLUS_MINUS.search(gold + ours):
        gold, ours = _both_signs(gold), _both_signs(ours)
    gold_shape, our_shape = latex.shape(gold), latex.shape(ours)
    if gold_shape.kind == our_shape.kind == "scalar":
        return _same_scalar(gold, ours)
    if "scalar" in (gold_shape.kind, our_shape.kind):
        bare = latex.without_name(gold), latex.without_name(ours)
        if bare != (gold, ours) and levels:
            return _same(*bare, levels=levels - 1)
        return _same_scalar(gold, ours)
    kinds = {gold_shape.kind, our_shape.kind}
    if kinds == {"list", "union"}:
        gold_shape, our_shape = _as_union(gold_shape), _as_union(our_shape)
        kinds = {gold_shape.kind, our_shape.kind}
    free = kinds <= {"list", "{}"}
    if len(kinds) > 1 and not free and kinds != {"list", "()"}:
        return False, "parts"
    if len(gold_shape.parts) != len(our_shape.parts) or len(gold_shape.parts) > MAX_PARTS or not levels:
        return False, "parts"
    if not gold_shape.ordered and not our_shape.ordered:
        return _same_unordered(gold_shape.parts, our_shape.parts, levels=levels - 1), "parts"
    pairs = zip(gold_shape.parts, our_shape.parts, strict=True)
    return all(_same(*pair, levels=levels - 1)[0] for pair in pairs), "parts"


def _as_union(found: latex.Shape) -> latex.Shape:
    """A list of nothing but inequalities ("x < 2 or x > 3") as the union of their intervals."""
    intervals = [latex.interval(part) for part in found.parts]
    return latex.Shape("union", tuple(part or "" for part in intervals)) if all(intervals) else found


def _same_unordered(gold: tuple[str, ...], ours: tuple[str, ...], *, levels: int) -> bool:
    """Whether the parts pair up. Parts that are equal by form go first, so that few questions remain."""
    left = [latex.without_name(part) for part in ours]
    rest = []
    for part in (latex.without_name(part) for part in gold):
        twin = next((other for other in left if latex.compact(other) == latex.compact(part)), None)
        if twin is None:
            rest.append(part)
        else:
            left.remove(twin)
    for part in rest:
        twin = next((other for other in left if _same(part, other, levels=levels)[0]), None)
        if twin is None:
            return False
        left.remove(twin)
    return True


def _both_signs(text: str) -> str:
    """`1 \\pm x` as the list `1 + x, 1 - x`; `\\mp` takes the other sign."""
    parts = []
    for part in latex.split(text, ",") or (text,):
        if _PLUS_MINUS.search(part):
            for plus, minus in (("+", "-"), ("-", "+")):
                signed = part.replace(r"\pm", plus).replace(r"\mp", minus).strip()
                parts.append(re.sub(r"(?<=[=,({])\s*\+|^\s*\+", "", signed))
        else:
            parts.append(part)
    return ", ".join(parts)


def _same_scalar(gold: str, ours: str) -> tuple[bool, str]:
    """Whether two single expressions are the same."""
    gold_text, our_text = latex.compact(latex.without_name(gold)), latex.compact(latex.without_name(ours))
    if gold_text == our_text or latex.compact(gold) == latex.compact(ours):
        return True, "form"
    if _WORDS.fullmatch(gold) and len(gold) > 1:
        return _bare_words(gold) == _bare_words(ours), "words"
    values = number.value_of(gold_text), number.value_of(our_text)
    if values[0] is not None and values[1] is not None:
        return number.same(values[1], values[0]), "number"
    if base := _BASE.fullmatch(gold_text):
        other = _BASE.fullmatch(our_text)
        return our_text == base[1] or (other is not None and other.groups() == base.groups()), "form"
    if _is_equation(gold) != _is_equation(ours):
        gold, ours = latex.without_name(gold), latex.without_name(ours)
        if not _is_equation(gold):
            ours = ours.rsplit("=", 1)[-1]
    gold, ours = gold.replace(r"\%", ""), ours.replace(r"\%", "")
    if r"\ln" in gold:  # \log without a base means the natural one there
        ours = _PLAIN_LOG.sub(r"\\ln", ours)
    if (
        len(ours) > 4 * len(gold) + 200
        or len(_PROSE.findall(ours)) > len(_PROSE.findall(gold)) + 5
        or _TOWER.search(ours)
    ):
        return False, "no-formula"
    verdict = maths_process.equal(gold, ours)
    return bool(verdict), "math-verify" if verdict is not None else "math-verify-timeout"


def _is_equation(text: str) -> bool:
    """Whether it holds an equals sign."""
    return "=" in text


def _bare_words(text: str) -> str:
    """Words without brackets, case and punctuation ("(C)" is "c")."""
    return re.sub(r"[^a-z0-9]+", " ", text.casefold()).strip()
