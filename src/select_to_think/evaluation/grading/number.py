"""Answers that are one number: GSM8K's `#### 42`, SVAMP, AIME and the bundled pair's arithmetic.

Extraction is ordered: `#### X`, `\\boxed{X}`, "the answer is X", a bold number in the last paragraph, and as the last
resort the last number of the text. The extracted answer is spelled canonically ("1234.5", "-3", "3/4", "25%"), so that
equal answers are equal strings and can be counted as votes.

Non-goals: evaluating expressions (see `maths`), and converting units.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from select_to_think.evaluation.grading.base import (
    NOTHING,
    Context,
    Extraction,
    clean,
    end_boxes,
    last_paragraph,
    sentence,
    statements,
)

TOLERANCE = Fraction(1, 10**6)  # relative, where a side is no short decimal: 0.333333 is right for 1/3
SHORT_DECIMALS = 5

_MINUS = "\u2212\u2013\u2014\ufe63\uff0d"
_TO_ASCII = str.maketrans({**dict.fromkeys(_MINUS, "-"), **dict.fromkeys("\u00a0\u2009\u202f", " "), "\u2215": "/"})
_LATEX = [
    (re.compile(r"<<[^<>\n]{0,200}>>"), ""),  # GSM8K's calculator notes
    (re.compile(r"\\(?:left|right|displaystyle|[,;!:>]|quad|qquad)(?![a-zA-Z])"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[dtc]?frac\s*\{\s*(-?[\d.]{1,30})\s*\}\s*\{\s*(-?[\d.]{1,30})\s*\}"), r" \1/\2"),
    (re.compile(r"\\[dtc]?frac\s*(\d)\s*(\d)"), r" \1/\2"),
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|textrm|bf)\s*\{([^{}]{0,200})\}"), r" \1 "),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\(?:approx|equiv)(?![a-zA-Z])"), "="),
    (re.compile(r"\\(?:leq?|geq?|leqslant|geqslant|neq?)(?![a-zA-Z])"), "<="),
    (re.compile(r"\\([$%#&])"), r"\1"),
    (re.compile(r"\\[()\[\]]"), " "),
]
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_CURRENCY = r"(?:US|AU|CA|HK)?[$\u20ac\u00a3\u00a5\u20b9]|(?:USD|EUR|GBP|Rs\.?|INR)\s?(?=\d)"
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?![\d,])|\d{1,400})(?:\.\d{1,400})?|\.\d{1,400}"
_NUMBER = re.compile(
    rf"(?<![A-Za-z_\\.\d])(?P<sign>-\s?)?(?:{_CURRENCY})?\s?(?P<inner>-\s?)?"
    rf"(?P<body>{_PLAIN})"
    r"(?:\s?(?:[x*\u00d7]\s?10\s?\^\s?\{?(?P<power>[+-]?\d{1,3})\}?|[eE](?P<exponent>[+-]?\d{1,3})(?![\w.]))"
    r"|\s?(?:\^|\*\*)\s?\{?(?P<raised>\d{1,2})\}?(?!\d)"
    r"|\s?/\s?(?P<under>\d{1,30}(?:\.\d{1,30})?)(?![\d/])"
    r"|[ -](?P<upper>\d{1,9})\s?/\s?(?P<lower>\d{1,9})(?![\d/]))?"
    r"(?P<percent>\s?%|\s?percent\b)?"
    rf"(?:[\s-]?(?P<scale>{'|'.join(_SCALES)}|[kK](?![A-Za-z]))\b)?"
)
_BOUND = re.compile(r"(?:[<>\u2264\u2265\u2260]|[<>!]=|\d\s+or|\\sqrt\s*(?:\[\d\])?\{?|\}\{)\s*$")
_EXPRESSION = re.compile(
    r"\s*(?:\\(?:sqrt|pi|pm|mp|log|ln|sin|cos|tan|frac|binom|infty|theta)(?![a-zA-Z])|[\u221a\u03c0])"
)
_OPERATOR = re.compile(r"\s*[+*\-]\s*[\d\\]")
_JOINT = re.compile(r"\s*(?:,?\s*\bor\b|(?:,?\s*\band\b|[,;])(?=[^a-zA-Z]*$))\s*")
_EQUALS = re.compile(r"(?<![<>!])=")
_FACTOR = re.compile(r"([*/])(\d{1,30}(?:\.\d{1,30})?)")
_PRODUCT = re.compile(r"([+-]?)(\d{1,30}(?:\.\d{1,30})?)((?:\*\d[\d.]*|/[1-9][\d.]*)*)")
_SUM = re.compile(rf"(?:{_PRODUCT.pattern}(?=[+-]|$)){{1,50}}")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_HASHES = re.compile(r"####([^\n]{1,200})")
_LEAD = re.compile(
    r"[\s:*_`~($\[\\=]*(?:(?:just|only|exactly|approximately|about|around|roughly|simply|therefore|thus|now|then|"
    r"equal to|a total of|clearly|indeed|the number|option|given by|x|n|y)\b[\s:*_`~($\[\\=]*){0,3}",
    re.IGNORECASE,
)
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_WORDS = {word: value for value, word in enumerate(_UNITS.split())}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_WORD_NUMBER = re.compile(
    rf"(?:(?:{'|'.join([*_WORDS, *_TENS, *_SCALES])}|and)\b[\s-]*){{1,12}}(?P<more>\.\d|/)?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Value:
    """A number as written: its value, and whether a percent sign or a scale word stood behind it."""

    value: Fraction
    percent: bool = False
    scale: int = 1

    @property
    def readings(self) -> set[Fraction]:
        """What it may mean: "25%" is 25 and 1/4; "3 million" is 3000000, and 3 where the unit is a million."""
        readings = {self.value * self.scale, self.value}
        return readings | {self.value / 100} if self.percent else readings

    def __str__(self) -> str:
        """The canonical spelling: a decimal where it is finite, else a fraction; "%" kept."""
        return spell(self.value * self.scale) + ("%" if self.percent else "")


def spell(value: Fraction) -> str:
    """A finite decimal without trailing zeros, else `p/q`."""
    power, rest = 0, value.denominator
    for prime in (2, 5):
        count = 0
        while rest % prime == 0 and count < 400:
            rest, count = rest // prime, count + 1
        power = max(power, count)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**power // value.denominator).rjust(power + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (digits if not power else f"{digits[:-power]}.{digits[-power:]}")


def plain(text: str) -> str:
    """The text with unicode minus signs, LaTeX spacing, fractions and calculator notes made plain."""
    text = text.translate(_TO_ASCII)
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text


def numbers(text: str) -> list[Value]:
    """Every number of a plain text in order, with sign, separators, fraction, percent and scale words resolved."""
    return [_value(match, text) for match in _NUMBER.finditer(text)]


def _value(match: re.Match[str], text: str) -> Value:
    """The value of one match of `_NUMBER`."""
    value = Fraction(match["body"].replace(",", "").replace(" ", ""))
    if match["power"] or match["exponent"]:
        value *= Fraction(10) ** int(match["power"] or match["exponent"])
    elif match["raised"]:
        value = value ** int(match["raised"]) if len(match["body"]) <= 20 else value
    elif match["under"] and Fraction(match["under"]):
        value /= Fraction(match["under"])
    elif match["upper"] and int(match["lower"]):
        value += Fraction(int(match["upper"]), int(match["lower"]))
    if match["inner"] or (match["sign"] and not _binary_minus(match, text)):
        value = -value
    scale = match["scale"]
    return Value(value, match["percent"] is not None, 1000 if scale in ("k", "K") else _SCALES.get(scale or "", 1))


def _binary_minus(match: re.Match[str], text: str) -> bool:
    """A minus that subtracts ("7 - 3", "5-3"), joins ("a 10-15 range") or opens a list item ("- 18 eggs")."""
    before = text[max(0, match.start() - 20) : match.start()]
    if re.search(r"[\w)\]%}]\s*$", before) and (match["sign"] == "-" and not before[-1:].isspace()):
        return True
    if re.search(r"[\d)\]%}]\s*$", before):
        return True
    return match["sign"] != "-" and (not before.strip(" \t") or before.rstrip(" \t").endswith("\n"))


class _Unclear(Exception):
    """A text gives several numbers as its answer, or a number that is only part of an expression."""


def extract(text: str, context: Context) -> Extraction:
    """The levels of the module's docstring; a level that holds no number passes on to the next."""
    text = clean(text)
    try:
        for rule, value in _levels(text, context):
            if value:
                return Extraction(str(value), rule)
    except _Unclear:
        return Extraction(None, "unclear")
    return NOTHING


def _levels(text: str, context: Context) -> Iterator[tuple[str, Value | None]]:
    """(level, the number found there) in the order in which they count. Raises _Unclear."""
    yield from (("hashes", _whole(plain(found))) for found in context.preferred(_HASHES.findall(text)))
    for box in end_boxes(text, context):
        yield "boxed", _calculated(plain(box)) or _whole(plain(box)) or _words(box)
    yield from (("answer-is", _stated(said)) for said in statements(text, context))
    yield from (("bold", _whole(plain(found))) for found in context.preferred(_BOLD.findall(last_paragraph(text))))
    yield "last-number", last_number(text)


def _whole(text: str) -> Value | None:
    """The number of a plain text that is an answer as a whole. Raises _Unclear."""
    value = result(text)
    side = _EQUALS.split(text)[-1]
    if value and (_EXPRESSION.search(side) or _is_one_of_several(side)):
        raise _Unclear
    return value


def _is_one_of_several(text: str) -> bool:
    """Whether another number stands beside the first of a plain text as its equal: "5 or 6", "5, 6", "5 and 6"."""
    first = _NUMBER.search(text)
    joint = first and _JOINT.match(text, first.end())
    other = joint and _NUMBER.match(text, joint.end())
    return bool(first and other and not same(_value(first, text), _value(other, text)))


def _calculated(text: str) -> Value | None:
    """The value of a plain text that is nothing but a sum of products of numbers ("10-3"), else None."""
    text = re.sub(r"[\s$]|(?<=\d),(?=\d{3}(?!\d))|\.$", "", _EQUALS.split(text)[-1])
    if not _SUM.fullmatch(text) or _NUMBER.fullmatch(text):
        return None
    total = Fraction(0)
    for sign, first, rest in _PRODUCT.findall(text):
        value = Fraction(first)
        for operator, factor in _FACTOR.findall(rest):
            value = value * Fraction(factor) if operator == "*" else value / Fraction(factor)
        total += -value if sign == "-" else value
    return Value(total)


def last_number(text: str) -> Value | None:
    """The last number of a text; None where it is only a bound ("x <= 2"), one of two, or part of an expression."""
    text = plain(text)
    found = list(_NUMBER.finditer(text))
    if not found or _BOUND.search(text, 0, found[-1].start()) or _EXPRESSION.match(text, found[-1].end()):
        return None
    return _value(found[-1], text)


def _stated(tail: str) -> Value | None:
    """The number of what follows "the answer is": the first where it follows directly, else the last of the sentence.

    An equation counts by its right side. Raises _Unclear.
    """
    said = sentence(plain(tail))
    lead = _LEAD.match(said)
    direct = said[lead.end() :] if lead else said
    if number := _NUMBER.match(direct):
        if re.match(r"[^a-zA-Z,;]*=|[^,;=]*[*/+-]\s*\$?\d[^,;=]*=", direct):
            return _whole(direct)
        goes_on = _EXPRESSION.match(direct, number.end()) or _OPERATOR.match(direct, number.end())
        if goes_on or _is_one_of_several(direct):
            raise _Unclear
        return _first(direct)
    if value := _words(direct):
        return value
    for found in _BOLD.findall(said):
        if value := result(found):
            return value
    value = result(said)
    if value and "=" not in said and last_number(said) is None:
        raise _Unclear
    return value


def _first(text: str) -> Value | None:
    """The first number of a plain text; a minus in front of it is a sign, whatever stands before."""
    text = text.strip(" \t*_$:=`~")
    match = _NUMBER.search(text)
    if match is None:
        return None
    value = _value(match, text)
    negative = match.start() == 0 and match["sign"] is not None and value.value > 0
    return Value(-value.value, value.percent, value.scale) if negative else value


def result(text: str) -> Value | None:
    """The first number after the last `=` that has one behind it, else the last number."""
    for part in reversed(_EQUALS.split(text)[1:]):
        if value := _first(part):
            return value
    values = numbers(text)
    return _first(text) if len(values) == 1 and _NUMBER.match(text.strip()) else values[-1] if values else None


def _words(text: str) -> Value | None:
    """A number written in words at the start of the text, up to the trillions ("one hundred and five")."""
    match = _WORD_NUMBER.match(text.strip(" *_`:"))
    if match is None or match["more"]:
        return None
    total, part, seen = 0, 0, False
    for word in re.findall(r"[a-z]+", match.group().casefold()):
        seen = seen or word != "and"
        if word == "hundred":
            part = max(part, 1) * 100
        elif word in _SCALES:
            total, part = total + max(part, 1) * _SCALES[word], 0
        else:
            part += _WORDS.get(word, _TENS.get(word, 0))
    return Value(Fraction(total + part)) if seen else None


def value_of(text: str) -> Value | None:
    """The number that a text consists of, wholly; None where anything else stands beside it."""
    text = plain(text).strip(" $")
    return _first(text) if _NUMBER.fullmatch(text) else None


def same(ours: Value, gold: Value, tolerance: float | None = None) -> bool:
    """Whether one of the readings of either side agrees: exactly for short decimals, else within `TOLERANCE`.

    `tolerance`: how far apart they may be at most, instead.
    """
    for target, reading in product(gold.readings, ours.readings):
        short = all(10**SHORT_DECIMALS % value.denominator == 0 for value in (target, reading))  # nobody rounded
        slack = 0 if short else abs(target) * TOLERANCE
        if abs(reading - target) <= (slack if tolerance is None else Fraction(str(tolerance))):
            return True
    return False


def compare(extracted: str, answer: str, context: Context) -> tuple[bool, str]:
    """Whether two numbers are the `same`."""
    ours, gold = _first(plain(extracted)), _first(plain(answer))
    if ours is None or gold is None:
        return False, "no-number"
    return same(ours, gold), "same-number"
