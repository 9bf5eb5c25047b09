"""LaTeX and plain-text mathematics made comparable: one spelling for one thing, and the outer structure of an answer.

`normalise` removes what does not change the meaning (spacing, `\\left`, units, degree signs, `\\dfrac`), `shape` tells
a list from a tuple or an interval, so that order counts where it should and nowhere else.

Non-goals: algebra (see `maths_judge`), and documents: only short expressions come here.
"""

from __future__ import annotations

import re

_UNICODE = {
    "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ",
    "\u00f7": "/", "\u2215": "/", "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u2264": r"\leq ", "\u2265": r"\geq ",
    "\u2260": r"\neq ", "\u222a": r"\cup ", "\u2229": r"\cap ", "\u2208": r"\in ", "\u00b1": r"\pm ",
    "\u2213": r"\mp ", "\u00b0": "", "\u00bd": r"\frac{1}{2}", "\u00bc": r"\frac{1}{4}", "\u00be": r"\frac{3}{4}",
    "\u00b2": "^{2}", "\u00b3": "^{3}", "\u2074": "^{4}", "\u03b8": r"\theta ", "\u03b1": r"\alpha ",
    "\u03b2": r"\beta ", "\u2211": r"\sum ", "\u211d": r"\mathbb{R}", "\u2124": r"\mathbb{Z}", "\u2205": r"\emptyset ",
    "\u20ac": "", "\u00a3": "", "\u00a0": " ",
    "\u2009": " ", "\u202f": " ", "\u2061": "", "\u2032": "'", "\u27e8": "(", "\u27e9": ")",
}  # fmt: skip
_TO_LATEX = str.maketrans(_UNICODE)

_POWER = r"(?:\s*\^?\s*\{?[23]\}?)?(?![a-zA-Z])"
_LONG_UNIT = (
    r"(?:(?:square|cubic|sq\.?|per)\s+)?(?:degrees?|radians?|units?|cm|mm|km|dm|ft|in|feet|foot|inch(?:es)?|miles?|"
    r"meters?|metres?|centimeters?|centimetres?|kilometers?|yards?|mph|km/h|m/s|kg|grams?|liters?|litres?|ml|hours?|"
    r"hrs?|minutes?|mins?|seconds?|sec|days?|weeks?|months?|years?|cents?|dollars?|euros?|pounds?|points?|people|"
    r"students?|ways|apples|sides?|terms?|%|percent)"
)
_FONT = r"\\(?:text(?:bf|it|rm|sf|normal)?|mbox|math(?:rm|bf|it)|boldsymbol|bm|emph|operatorname|boxed|fbox)"
_UNIT = rf"{_FONT}\s*\{{\s*(?:{_LONG_UNIT}|m|g|s|h){_POWER}\s*\}}(?:\s*\^\s*\{{?\s*-?\d\s*\}}?)?"
_SAME = {
    "[dtc]frac": r"\\frac", "[dt]binom": r"\\binom", "ge|geqslant": r"\\geq", "le|leqslant": r"\\leq", "ne": r"\\neq",
    "varnothing|O": r"\\emptyset", "lbrace": r"\\{", "rbrace": r"\\}", "langle|lparen": "(", "rangle|rparen": ")",
    "lbrack": "[", "rbrack": "]",
}  # fmt: skip
_STEPS: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![a-z])\s*\.?(?=[^a-zA-Z]|$)"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|rm|bf|it)(?![a-zA-Z])"), ""),
    (re.compile(r"\{,\}|\\!\s*,|,\s*\\!\s*"), ","),
    (re.compile(r"(?<=\d)\\[,;:! ]\s*(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\u221a\s*(\d+|[a-z](?![a-z]))"), r"\\sqrt{\1}"),
    (re.compile(r"\u221a\s*[({]([^(){}]*)[)}]"), r"\\sqrt{\1}"),
    (re.compile(r"(?<!\\)\\(?:[,;:!> ]|quad|qquad|hspace\{[^{}]*\}|phantom\{[^{}]*\})(?![a-zA-Z])"), " "),
    (re.compile(r"~"), " "),
    *((re.compile(rf"\\(?:{names})(?![a-zA-Z])"), one) for names, one in _SAME.items()),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])|\\circ$"), ""),
    (re.compile(rf"([^\s_^{{(\[,=])(?:\s*/?\s*{_UNIT})+"), r"\1"),
    (re.compile(r"\\(?:text|textrm|mbox)\s*\{\s*,?\s*(?:and|or)\s*\}"), ","),
    (re.compile(_FONT + r"\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"(?<=\S),?\s*(?:\\forall|\bfor\s+(?:all|every|each|any)\b).*$"), ""),
    (re.compile(r"\\[$&#]|(?<!\\)[$]"), ""),
    (re.compile(r"\\?%|\bpercent\b"), r"\\%"),
    (re.compile(r"\bsqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\sqrt\s*(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"!="), r"\\neq "),
    (re.compile(r"(\\frac\{[^{}]*\}\{[^{}]*\}|\\pi)\s*(?=\d)"), r"\1 \\cdot "),
    (re.compile(r"(?<![\\a-zA-Z])(pi|theta|infty)(?![a-zA-Z])"), r"\\\1 "),
    (re.compile(r"(?<![\\a-zA-Z])(?:inf|infinity|oo)(?![a-zA-Z])"), r"\\infty "),
    (re.compile(r"(?<![\\a-zA-Z])(sin|cos|tan|log|ln|exp)(?=[\s({\\])"), r"\\\1"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*"), r"\\cdot "),
    (re.compile(r"<="), r"\\leq "),
    (re.compile(r">="), r"\\geq "),
    (re.compile(r"\^\s*(-?\d{2,})"), r"^{\1}"),
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(rf"(?<=[\d}}])\s*\b{_LONG_UNIT}{_POWER}(?=\s*(?:$|,|and\b|or\b))"), ""),
    (re.compile(rf"(?<=\\pi)\s+{_LONG_UNIT}{_POWER}(?=\s*(?:$|,|and\b|or\b))"), ""),
]  # fmt: skip
_GROUPED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d,])")
_WORD_SEPARATOR = re.compile(r"\s*,?\s+(?:and|or)\s+|\s*;\s*")
_NAME = re.compile(
    r"^\s*(?:\\?[A-Za-z]+'?\s*(?:_\s*(?:\{[^{}]*\}|\w))?\s*(?:\([^()=]{0,20}\))?|\([a-zA-Z][^()=]{0,30}\))\s*"
    r"(?:=|:=|\\in(?![a-z])|\\approx(?![a-z])|:)\s*"
)
_UNIT_WORDS = re.compile(
    r"(?<=[\d})\]!%a-zA-Z])(?:\s+|(?<=[\d})\]!%]))\(?(?P<words>[A-Za-z]{3,}(?:[\s/]+[A-Za-z]+){0,4})\)?$"
)
_NO_UNIT = re.compile(
    r"\b(?:or|and|more|less|fewer|least|most|if|when|where|for|all|otherwise|except|mod|modulo|not|plus|minus|times|"
    r"choose|factorial|squared|hundred|thousand|million|billion|trillion|dozen|only|is|are)\b",
    re.IGNORECASE,
)
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
_OPEN, _CLOSE = set("([{"), set(")]}")


def normalise(text: str, *, grouped: bool = True) -> str:
    """One spelling for one meaning; what cannot be understood stays as it is.

    `grouped` reads "1,234" as one number, otherwise as a list of two; the text alone does not tell. In round or square
    brackets or in a set it is two.
    """
    text = text.strip().translate(_TO_LATEX)
    text = re.sub(r"^\s*(?:\\\(|\\\[|\$\$?)|(?:\\\)|\\\]|\$\$?)\s*$", "", text).strip()
    for _ in range(3):  # nested \text and spacing need a second look
        before = text
        for pattern, replacement in _STEPS:
            text = pattern.sub(replacement, text)
        if grouped:
            text = _GROUPED.sub(_ungrouped, text)
        if text == before:
            break
    text = _WORD_SEPARATOR.sub(", ", text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".,;:").strip()


def _ungrouped(match: re.Match[str]) -> str:
    """A number without its separators, outside brackets."""
    before = match.string[: match.start()].replace(r"\{", "(").replace(r"\}", ")")
    inside = sum(map(before.count, "([")) > sum(map(before.count, ")]"))
    return match.group() if inside else re.sub("[, ]", "", match.group())


def compact(text: str) -> str:
    """For comparing strings: without blanks and outer braces."""
    text = re.sub(r"(?<=\d)\s+(?=\d)", "~", text)
    text = re.sub(r"\s+", "", text)
    while text.startswith("{") and text.endswith("}") and _closes_at_end(text):
        text = text[1:-1]
    return text


def without_name(text: str) -> str:
    """`x = 5`, `f(x) = x + 1`, `(x, y) = (1, 2)`, `x \\in [1, 2]` without their left side; others unchanged."""
    return _NAME.sub("", text, count=1) or text


def last_side(text: str) -> str:
    """What stands behind the last equals sign outside all brackets; the text where there is none."""
    return (split(re.sub(r"(?<=[<>!:])=", "~", text), "=") or (text,))[-1].replace("~", "=")


def without_unit(text: str, *, beside: str) -> str:
    """Without the words at the end ("17 red marbles"), where the text `beside` it has none there."""
    match = _UNIT_WORDS.search(text)
    if match is None or _NO_UNIT.search(match["words"]) or _UNIT_WORDS.search(beside):
        return text
    return text[: match.start()]


def words(text: str) -> str:
    """Words without brackets, case and punctuation ("(C)" is "c")."""
    return re.sub(r"[^a-z0-9]+", " ", text.casefold()).strip()


def both_signs(text: str) -> str:
    """`1 \\pm x` as the list `1 + x, 1 - x`; `\\mp` takes the other sign."""
    if not _PLUS_MINUS.search(text):
        return text
    parts = []
    for part in split(text, ","):
        signs = (("+", "-"), ("-", "+")) if _PLUS_MINUS.search(part) else (("", ""),)
        for plus, minus in signs:
            signed = part.replace(r"\pm", plus).replace(r"\mp", minus).strip()
            parts.append(re.sub(r"(?<=[=,({])\s*\+|^\s*\+", "", signed))
    return ", ".join(parts)


def as_tuples(text: str, *, beside: str) -> str:
    """`p=5, q=2, p=7, q=2` as `(5,2), (7,2)`: with the names in the order of the text `beside`; others unchanged."""
    pairs = [part.split("=") for part in split(text, ",")]
    names, values = [compact(pair[0]) for pair in pairs], [pair[-1] for pair in pairs]
    size = len(set(names))
    if {*map(len, pairs)} != {2} or not 1 < size < len(names) or names != names[:size] * (len(names) // size):
        return text
    order = sorted(range(size), key=lambda at: compact(beside).find(names[at] + "="))
    return ", ".join(f"({','.join(values[row + at] for at in order)})" for row in range(0, len(names), size))


def shape(text: str) -> tuple[str, tuple[str, ...]]:
    """The outer structure of a normalised expression: its kind and its parts.

    The kind is "scalar", "list" (sets too: the order of the parts does not count), or the pair of brackets ("[)").
    """
    text = text.strip()
    if len(parts := split(text, ",")) > 1:
        return "list", parts
    is_set = text.startswith(r"\{") and text.endswith(r"\}") and _closes_at_end(text[1:])
    if is_set or (text[:1] in _OPEN and text[-1:] in _CLOSE and _closes_at_end(text)):
        parts = split(text[2:-2] if is_set else text[1:-1], ",")
        if is_set and not re.search(r"\\mid|[|:]", text):
            return "list", parts
        if len(parts) > 1:
            return "list" if text[0] == "{" else text[0] + text[-1], parts
    return "scalar", (text,)


def split(text: str, separator: str) -> tuple[str, ...]:
    """Split at a separator outside all brackets; empty parts are dropped."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        if text[at] in _OPEN:
            depth += 1
        elif text[at] in _CLOSE:
            depth = max(depth - 1, 0)
        elif depth == 0 and text.startswith(separator, at):
            parts.append(text[start:at])
            start = at + len(separator)
            at = start - 1
        at += 1
    parts.append(text[start:])
    return tuple(part.strip() for part in parts if part.strip())


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that opens the text is closed by its last character (brackets of all kinds may mix)."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth == 0:
            return at == len(text) - 1
    return False
