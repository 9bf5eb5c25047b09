"""Multiple choice: the letter that a text settles on, looked for in ordered levels.

Levels: `\\boxed{C}`; "the answer is (C)", with the choice's own words accepted; "C is correct", "I choose C"; a text that
begins with "C." or "(C) ..."; a last line that is one; bold; "(C)" and "option C" wherever they stand last; the words of
exactly one choice in the last paragraph; the last capital letter that stands alone. A letter that is denied ("not A",
"A is wrong", "rather than A") never counts, and "A or B" is no answer.

Non-goals: judging the reasoning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from select_to_think.evaluation.grading import number
from select_to_think.evaluation.grading.base import (
    NOTHING,
    Context,
    Extraction,
    boxed,
    clean,
    last_paragraph,
    sentence,
)

DEFAULT_CHOICES = 10  # letters A-J where the item does not list its choices
MAX_MENTIONS = 2_000

_MARKUP = re.compile(r"\*+|__|`|\\(?:text|textbf|mathrm|mathbf|textit|bf|rm)\s*\{([^{}]{0,300})\}|\\[()\[\]]|\$")
_LATEX_SPACE = re.compile(r"(?<!\\)\\[ ,;!]|~(?=\\|[A-Z])")
_DENIED_AFTER = re.compile(
    r"[)\].:,'\"]*\s*(?:[-\u2013\u2014(]\s*)?(?:(?:which|that)\s+)?(?:"
    r"(?:is|are|was|were|seems?|appears?|looks?|would be|must be|can be|could be)\s+(?:(?:also|clearly|definitely|therefore|"
    r"thus|both|all|obviously|simply|too|just|partially|partly|factually)\s+){0,2}(?:wrong|incorrect|false|not|never|ruled out|"
    r"excluded|eliminated|irrelevant|invalid|impossible|unlikely|out\b|implausible|unrelated|inaccurate|untrue|too)"
    r"|(?:isn|aren|wasn|doesn|don|can|couldn|won|wouldn)['\u2019]t|cannot|can not|does not|do not|did not|fails?\b|"
    r"contradicts|wrong\b|incorrect\b)",
    re.IGNORECASE,
)
_DENIED_BEFORE = re.compile(
    r"(?:\bnot|n['\u2019]t|\brather than|\binstead of|\beliminat(?:e|es|ed|ing)|\brul(?:e|es|ed|ing) out|\bexclud(?:e|es|ed|ing)|"
    r"\bunlike|\bexcept|\bneither|\bnor|\bdiscard|\breject(?:s|ed|ing)?|\bagainst|\bthan|\bover|\bwithout|\bcannot)"
    r"\s+(?:(?:be|is|the|an?|option|options|choice|answer|just|only|simply|choose|select|pick|statement|it|really)\s+){0,3}[(\"'\[]*$",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    r"\b(?:answers?|ans|(?:correct|right|best|final|appropriate|likely|accurate|true)\s+(?:option|choice|one|statement|selection|"
    r"response|letter|alternative)|(?:my|the|final)\s+(?:option|choice|selection|pick|response|conclusion))\b"
    r"[^.:=\n?!]{0,80}?(?:\b(?:is|are|was|would be|should be|must be|will be|has to be|seems to be|appears to be)\b\s*:?|"
    r"[:=]|\s[-\u2013\u2014]\s|\u2192|->|=>)",
    re.IGNORECASE,
)
_DENIAL = re.compile(r"\s*(?:(?:definitely|clearly|certainly|obviously|probably)\s+)?(?:not|neither|never)\b", re.IGNORECASE)
_NOT_BUT = re.compile(
    r"\s*(?:not|neither)\b[^.\n]{0,80}?(?:\b(?:but|rather|instead)\b|[;,]\s*it\s+is\b)(?:\s+(?:rather|it\s+is))?", re.IGNORECASE
)
_LEAD = re.compile(
    r"[\s:\"'\u201c\u2018{=>,\-\u2013\u2014]*(?:(?:option|choice|letter|answer|alternative|statement|clearly|definitely|most likely|"
    r"likely|probably|therefore|thus|simply|indeed|actually|in fact|number|indicated by|given by|represented by|the|"
    r"labell?ed|best|correct)\b[\s:\"'\u201c\u2018{]*){0,4}",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"\b(?:choose|chose|pick|picked|select|selected|selecting|choosing|going with|go with|going for|opt for|settle on|leaves|"
    r"leaving|left with|leaves us with|leaving us with|leaves only|leaving only|correspond(?:s|ing)? to|matches|match|"
    r"conclude|goes to|points to)\s+(?:(?:us|me|with|only|the|answer|option|choice|letter|is|that|it|it's|statement)\s+){0,4}",
    re.IGNORECASE,
)
_IS_RIGHT = re.compile(
    r"[)\].:,'\"]*[^.\n]{0,100}?\b(?:is|are|would be|must be|seems|appears to be)\s+(?:(?:therefore|thus|clearly|indeed|definitely|"
    r"probably|likely|actually|also|hence|then|most|by far|in fact|considered|our)\s+){0,3}(?:the\s+)?(?:(?:most|only|single)\s+)?"
    r"(?:\w+ly\s+)?(?:correct|right|best|true|accurate|appropriate|likely|answer|our answer|one)\b",
    re.IGNORECASE,
)
_AMBIGUOUS = re.compile(
    r"[)\].\"']*\s*(?:,|/|&|\bor\b|\band\b|,\s*(?:or|and)\b)\s*(?:(?:option|choice|both|possibly|maybe|perhaps)\s+)?"
    r"[(\[]?(?P<other>[A-Z])(?![\w'\u2019+])[)\]]?(?!\s*(?:is|are|was|being|would|does|can)\b)"
)


class Letters:
    """The valid letters of one item and the patterns that find them."""

    def __init__(self, count: int) -> None:
        """`count` choices: letters A to chr(64 + count)."""
        upper = "".join(chr(65 + i) for i in range(count))
        lower = upper.lower()
        self.start = re.compile(  # a letter at a given place: bracketed, or not glued to a word
            rf"[(\[{{]\s*(?P<in>[{upper}{lower}])\s*[)\]}}]|(?P<up>[{upper}])(?![\w+#]|['\u2019-]\w)|"
            rf"(?P<low>[{lower}])(?=\s*(?:[).\]:,;\"'}}]|$|\n))"
        )
        self.mention = re.compile(
            rf"[(\[]\s*(?P<in>[{upper}{lower}])\s*[)\]]|"
            rf"\b(?i:option|choice|answer|ans)\b[.:]?\s*[(\[\"']?(?P<named>[{upper}]|[{lower}](?![\w'\u2019]))(?![\w+#])",
        )
        self.alone = re.compile(rf"(?<![\w'\u2019.+-])(?P<up>[{upper}])(?![\w+#]|['\u2019-]\w|\.\w)")
        self.opening = re.compile(
            rf"\s*(?:(?:option|choice|answer)\s+)?(?:[(\[]\s*(?P<in>[{upper}{lower}])\s*[)\]]|(?P<out>[{upper}{lower}])(?=\s*[).:,]|\s*$|"
            rf"\s*\n|\s+[-\u2013\u2014]))",
            re.IGNORECASE,
        )


def extract(text: str, context: Context) -> Extraction:
    """The levels of the module's docstring."""
    count = min(len(context.choices), 26) or DEFAULT_CHOICES
    letters = Letters(count)
    text = clean(text)
    for box in reversed(boxed(text)[-20:]):
        if letter := _whole(_unmarked(box), letters, context):
            return Extraction(letter, "boxed")
    bold = re.findall(r"\*\*([^*\n]{1,300})\*\*", text[-20_000:])
    text = _unmarked(text)
    levels = (
        ("answer-is", lambda: _from_statements(text, letters, context)),
        ("is-correct", lambda: _from_verdicts(text, letters)),
        ("opening", lambda: _from_opening(text, letters, context)),
        ("last-line", lambda: _from_last_line(text, letters, context)),
        ("bold", lambda: _only(_whole(_unmarked(part), letters, context) for part in bold)),
        ("mention", lambda: _last_mention(text, letters.mention)),
        ("quoted", lambda: _quoted(last_paragraph(text), context)),
        ("last-letter", lambda: _last_mention(text, letters.alone)),
    )
    for rule, find in levels:
        if letter := find():
            return NOTHING if letter == "?" else Extraction(letter, rule)
    return NOTHING


def compare(extracted: str, answer: str, context: Context) -> tuple[bool, str]:
    """The same letter."""
    return extracted == answer.strip().upper(), "same-letter"


def _unmarked(text: str) -> str:
    """Without bold, code and dollar signs, and with `\\text{C}` as its content."""
    return _MARKUP.sub(lambda match: match[1] or "", _LATEX_SPACE.sub(" ", text))


def _letter(match: re.Match[str]) -> str:
    """The letter that a pattern of `Letters` caught, in upper case."""
    return next(group for group in match.groups() if group).upper()


def _only(found: Iterable[str]) -> str:
    """The one letter that all findings agree on, the last finding otherwise being unreliable."""
    letters = [letter for letter in found if letter and letter != "?"]
    return letters[0] if len(set(letters)) == 1 else ""


def _whole(text: str, letters: Letters, context: Context) -> str:
    """The letter of a short text that is an answer as a whole: "C", "(c)", "C. words", or a choice's words."""
    text = text.strip().rstrip(".")
    match = letters.opening.match(text)
    if match and not _AMBIGUOUS.match(text, match.end()):
        return _letter(match)
    if re.fullmatch(r"[A-Za-z](?:\s*(?:,|/|&|or|and)\s*[A-Za-z])+", text):
        return ""
    return _quoted(text, context, whole=True)


def _from_statements(text: str, letters: Letters, context: Context) -> str:
    """The last "the answer is ..." that names a letter or a choice; "?" for one that names two."""
    for match in reversed(list(_STATEMENT.finditer(text))):
        tail = text[match.end() : match.end() + 600]
        if turn := _NOT_BUT.match(tail):
            tail = tail[turn.end() :]
        elif _DENIAL.match(tail):
            continue
        if letter := _stated(tail, letters, context):
            return letter
    return ""


def _stated(tail: str, letters: Letters, context: Context) -> str:
    """The letter in what follows "the answer is"."""
    said = sentence(tail)
    lead = _LEAD.match(tail)
    at = lead.end() if lead else 0
    match = letters.start.match(tail, at)
    several = re.match(r"\s*(?:both|either|all|any)\b", tail, re.IGNORECASE)
    if several:
        return _quoted(said, context, whole=True) or _quoted(said, context, start=True) or "?"
    if match and not _is_word(match, tail):
        ambiguous = _AMBIGUOUS.match(tail, match.end())
        if ambiguous and ambiguous["other"] != _letter(match):
            return _quoted(said, context, whole=True) or "?"
        return _letter(match)
    return (
        _quoted(said, context, whole=True)
        or _quoted(said, context, start=True)
        or _last_mention(said, letters.mention)
        or _quoted(said, context)
        or _last_mention(said, letters.alone)
    )


def _is_word(match: re.Match[str], text: str) -> bool:
    """Whether a lone A or I is an article or a pronoun: "A banana", "I think"."""
    if match.group().strip() not in ("A", "I", "a", "i"):
        return False
    after = text[match.end() : match.end() + 30]
    if match.group() == "I":
        return re.match(r"\s+(?:think|believe|would|will|am|have|can|do|don|know|guess|choose|was|say|want|need|feel)\b", after) is not None
    connective = r"\s+(?:because|since|as|and|or|is|which|with|for|due|but|where|given|from|based|in|to|rather|not|by|if|so)\b"
    return match.group() == "A" and re.match(r"\s+[a-z]{2,}", after) is not None and not re.match(connective, after)


def _from_verdicts(text: str, letters: Letters) -> str:
    """The last "C is correct" or "I choose C" that is not denied."""
    found: list[tuple[int, str]] = []
    for chosen in list(_CHOSEN.finditer(text))[-MAX_MENTIONS:]:
        match = letters.start.match(text, chosen.end())
        if match and not _is_word(match, text) and not _denied(text, match.start(), match.end()):
            if not _DENIED_BEFORE.search(text[max(0, chosen.start() - 40) : chosen.start()] + " "):
                found.append((match.start(), _letter(match)))
    for pattern in (letters.mention, letters.alone):
        for match in list(pattern.finditer(text))[-MAX_MENTIONS:]:
            if _denied(text, match.start(), match.end()) or _is_word(match, text):
                continue
            claim = _IS_RIGHT.match(text, match.end())
            if claim and not pattern.search(text, match.end(), claim.end()) and not re.search(r"\bnot\b|n't", claim.group()):
                found.append((match.start(), _letter(match)))
    return max(found)[1] if found else ""


def _from_opening(text: str, letters: Letters, context: Context) -> str:
    """The letter that the text begins with, unless its lines begin with several letters (a walk through the choices)."""
    match = letters.opening.match(text)
    if match is None or _AMBIGUOUS.match(text, match.end()) or _denied(text, match.start(), match.end()):
        return _quoted(text, context, whole=True)
    others = {_letter(other) for line in text.splitlines() if (other := letters.opening.match(line))}
    return _letter(match) if len(others) == 1 else ""


def _from_last_line(text: str, letters: Letters, context: Context) -> str:
    """The letter of a last line such as "C", "(C) words" or "So C."."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return ""
    line = re.sub(r"^\s*(?:so|thus|hence|therefore|then|=>|->|>)[\s,:]*", "", lines[-1], flags=re.IGNORECASE)
    if len([1 for other in lines if letters.opening.match(other)]) > 1 and len(line.strip()) > 4:
        return ""
    match = letters.opening.match(line)
    if match and not _denied(line, match.start(), match.end()) and not _AMBIGUOUS.match(line, match.end()):
        return _letter(match)
    return ""


def _last_mention(text: str, pattern: re.Pattern[str]) -> str:
    """The last letter found by `pattern` that is neither denied nor a word."""
    for match in reversed(list(pattern.finditer(text))[-MAX_MENTIONS:]):
        if not _denied(text, match.start(), match.end()) and not _is_word(match, text) and not _pronoun(match, text):
            return _letter(match)
    return ""


def _pronoun(match: re.Match[str], text: str) -> bool:
    """A lone "I" or "A" in running text is a letter only where punctuation or the end follows."""
    return match.group() in ("I", "A") and re.match(r"\s+[A-Za-z]", text[match.end() : match.end() + 5]) is not None


def _denied(text: str, start: int, end: int) -> bool:
    """Whether the letter at a place is denied by the words around it."""
    return (
        _DENIED_AFTER.match(text, end) is not None
        or _DENIED_BEFORE.search(text[max(0, start - 60) : start].rsplit("\n", 1)[-1]) is not None
    )


def _words(text: str) -> str:
    """For comparing a choice's words: casefolded, single blanks, no punctuation at the ends of words."""
    text = re.sub(r"[\s\u00a0]+", " ", text.casefold().translate(str.maketrans("\u2019\u2018\u2212\u2013", "''--")))
    text = re.sub(r"[\"\u201c\u201d`*]|[.,;:!?](?=\s|$)", "", text)
    return re.sub(r"^(?:the|a|an)\s+", "", text.strip()).strip()


def _quoted(text: str, context: Context, *, whole: bool = False, start: bool = False) -> str:
    """The choice whose words the text is (`whole`), begins with (`start`) or holds; "" unless exactly one does.

    A choice inside a longer choice that is quoted too does not count.
    """
    if not context.choices or len(text) > 20_000:
        return ""
    said = _words(text)
    options = [_words(_unmarked(choice)) for choice in context.choices]
    if whole:
        hits = [i for i, option in enumerate(options) if option and option == said]
        return chr(65 + hits[0]) if len(hits) == 1 else _same_number(text, context)
    if start:
        hits = [i for i, option in enumerate(options) if option and re.match(re.escape(option) + r"(?!\w)", said)]
    else:
        hits = [i for i, option in enumerate(options) if option and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", said)]
    hits = [i for i in hits if not any(options[i] in options[j] and options[i] != options[j] for j in hits)]
    return chr(65 + hits[0]) if len(hits) == 1 else ""


def _same_number(text: str, context: Context) -> str:
    """The choice that is the same number as the text, where exactly one is ("70" for "$70")."""
    said = number.value_of(text)
    if said is None:
        return ""
    values = [number.value_of(choice) for choice in context.choices]
    hits = [i for i, value in enumerate(values) if value is not None and value.value * value.scale == said.value * said.scale]
    return chr(65 + hits[0]) if len(hits) == 1 else ""
