"""Multiple choice: the letter that a text settles on, looked for in ordered levels.

Levels: `\\boxed{C}`; "the answer is (C)", with the choice's own words accepted; a text that begins with "C" and its
words; "C is correct", "I choose C", "so C."; a text that begins with "C." or "(C) ..."; a last line that is one; bold;
"(C)" and "option C" wherever they stand last; the words of exactly one choice in the last paragraph. A letter that is
denied ("not A", "A is wrong", "rather than A") never counts; "A or B" and a text that names no letter are no answer.

Non-goals: judging the reasoning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from select_to_think.evaluation.grading import letters, number
from select_to_think.evaluation.grading.base import (
    MAX_STATEMENTS,
    NOTHING,
    Context,
    Extraction,
    boxed,
    clean,
    last_paragraph,
    sentence,
    unmarked,
)
from select_to_think.evaluation.grading.letters import Letters, letter_of

DEFAULT_CHOICES = 10  # letters A-J where the item does not list its choices
MAX_MENTIONS = 2_000


def extract(text: str, context: Context) -> Extraction:
    """The levels of the module's docstring."""
    count = min(len(context.choices), 26) or DEFAULT_CHOICES
    marks = Letters(count)
    text = clean(text)
    for box in context.preferred(boxed(text)):
        if letter := _whole(_unmarked(box), marks, context):
            return Extraction(letter, "boxed")
    bold = re.findall(r"\*\*([^*\n]{1,300})\*\*", text[-20_000:])
    text = letters.PART_HEADING.sub("", _unmarked(text))
    levels: tuple[tuple[str, Callable[[], str]], ...] = (
        ("answer-is", lambda: _from_statements(text, marks, context)),
        ("opening-quoted", lambda: _from_opening_quoted(text, marks, context)),
        ("is-correct", lambda: _from_verdicts(text, marks)),
        ("opening", lambda: _from_opening(text, marks, context)),
        ("last-line", lambda: _from_last_line(text, marks, context)),
        ("bold", lambda: _only(_whole(_unmarked(part), marks, context) for part in bold)),
        ("mention", lambda: _last_mention(text, marks.mention)),
        ("quoted", lambda: _quoted(last_paragraph(text), context)),
    )
    for rule, find in levels:
        if letter := find():
            return NOTHING if letter == "?" else Extraction(letter, rule)
    return NOTHING


def compare(extracted: str, answer: str, context: Context) -> tuple[bool, str]:
    """The same letter."""
    return extracted == answer.strip().upper(), "same-letter"


def _unmarked(text: str) -> str:
    """Without markup and LaTeX's blanks."""
    return unmarked(letters.LATEX_SPACE.sub(" ", text))


def _only(found: Iterable[str]) -> str:
    """The one letter that all findings agree on, the last finding otherwise being unreliable."""
    letters = [letter for letter in found if letter and letter != "?"]
    return letters[0] if len(set(letters)) == 1 else ""


def _whole(text: str, marks: Letters, context: Context) -> str:
    """The letter of a short text that is an answer as a whole: "C", "(c)", "C. words", or a choice's words."""
    text = text.strip().rstrip(".")
    match = marks.opening.match(text)
    if match and not letters.AMBIGUOUS.match(text, match.end()):
        return letter_of(match)
    if re.fullmatch(r"[A-Za-z](?:\s*(?:,|/|&|or|and)\s*[A-Za-z])+", text):
        return ""
    return _quoted(text, context, whole=True)


def _from_statements(text: str, marks: Letters, context: Context) -> str:
    """The preferred "the answer is ..." that names a letter or a choice; "?" for one that names two."""
    for match in context.preferred(list(letters.STATEMENT.finditer(text))[-MAX_STATEMENTS:]):
        tail = text[match.end() : match.end() + 600]
        if turn := letters.NOT_BUT.match(tail):
            tail = tail[turn.end() :]
        elif letters.DENIAL.match(tail):
            continue
        if letter := _stated(tail, marks, context):
            return letter
    return ""


def _stated(tail: str, marks: Letters, context: Context) -> str:
    """The letter in what follows "the answer is"."""
    said = sentence(tail)
    lead = letters.LEAD.match(tail)
    at = lead.end() if lead else 0
    match = marks.start.match(tail, at)
    if letters.SEVERAL.match(tail):
        return _quoted(said, context, whole=True) or _quoted(said, context, start=True) or "?"
    if match and not _is_word(match, tail):
        ambiguous = letters.AMBIGUOUS.match(tail, match.end())
        if ambiguous and ambiguous["other"] != letter_of(match):
            return _quoted(said, context, whole=True) or "?"
        return letter_of(match)
    return (
        _quoted(said, context, whole=True)
        or _quoted(said, context, start=True)
        or _last_mention(said, marks.mention)
        or _quoted(said, context)
        or _last_mention(said, marks.alone)
    )


def _is_word(match: re.Match[str], text: str) -> bool:
    """Whether a lone A or I is an article or a pronoun: "A banana", "I think"."""
    if match.group().strip() not in ("A", "I", "a", "i"):
        return False
    after = text[match.end() : match.end() + 30]
    if match.group() == "I":
        return letters.THINKER.match(after) is not None
    article = match.group() == "A" and re.match(r"\s+[a-z]{2,}", after) is not None
    return article and not letters.CONNECTIVE.match(after)


def _from_verdicts(text: str, marks: Letters) -> str:
    """The last "C is correct" or "I choose C" that is not denied."""
    found: list[tuple[int, str]] = []
    concluded = set(letters.CONCLUDED.finditer(text))
    for chosen in [*letters.CHOSEN.finditer(text), *concluded][-2 * MAX_MENTIONS :]:
        match = marks.start.match(text, chosen.end())
        if match is None or _is_word(match, text) or _denied(text, match.start(), match.end()):
            continue
        if letters.AMBIGUOUS.match(text, match.end()) or (
            chosen in concluded and not letters.CLAUSE_END.match(text, match.end())
        ):
            continue
        if not letters.DENIED_BEFORE.search(text[max(0, chosen.start() - 40) : chosen.start()] + " "):
            found.append((match.start(), letter_of(match)))
    for pattern in (marks.mention, marks.alone):
        for match in list(pattern.finditer(text))[-MAX_MENTIONS:]:
            if _denied(text, match.start(), match.end()) or _is_word(match, text):
                continue
            claim = letters.IS_RIGHT.match(text, match.end())
            if (
                claim
                and not pattern.search(text, match.end(), claim.end())
                and not re.search(r"\bnot\b|n't", claim.group())
            ):
                found.append((match.start(), letter_of(match)))
    return max(found)[1] if found else ""


def _from_opening_quoted(text: str, marks: Letters, context: Context) -> str:
    """The letter that the text begins with, where the words of that very choice follow it."""
    match = marks.opening.match(text)
    index = ord(letter_of(match)) - 65 if match else len(context.choices)
    if match is None or index >= len(context.choices):
        return ""
    words = _words(_unmarked(context.choices[index]))
    rest = _words(text[match.end() : match.end() + 2 * len(words) + 20].lstrip(" ).:,-\u2013\u2014\n"))
    return letter_of(match) if words and rest.startswith(words) else ""


def _from_opening(text: str, marks: Letters, context: Context) -> str:
    """The letter that the text begins with, unless its lines begin with several (a walk through the choices)."""
    match = marks.opening.match(text)
    if match is None or letters.AMBIGUOUS.match(text, match.end()) or _denied(text, match.start(), match.end()):
        return _quoted(text, context, whole=True)
    others = {letter_of(other) for line in text.splitlines() if (other := marks.opening.match(line))}
    return letter_of(match) if len(others) == 1 else ""


def _from_last_line(text: str, marks: Letters, context: Context) -> str:
    """The letter of a last line such as "C", "(C) words" or "So C."."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return ""
    line = letters.CONCLUSION.sub("", lines[-1])
    if len([1 for other in lines if marks.opening.match(other)]) > 1 and len(line.strip()) > 4:
        return ""
    match = marks.opening.match(line)
    if match and not _denied(line, match.start(), match.end()) and not letters.AMBIGUOUS.match(line, match.end()):
        return letter_of(match)
    return ""


def _last_mention(text: str, pattern: re.Pattern[str]) -> str:
    """The last letter found by `pattern` that is neither denied nor a word; "?" where it is joined to another."""
    last = ""
    for match in reversed(list(pattern.finditer(text))[-MAX_MENTIONS:]):
        if _denied(text, match.start(), match.end()) or _is_word(match, text) or _pronoun(match, text):
            continue
        if last:
            joined = letters.AMBIGUOUS.match(text, match.end())
            return "?" if joined and joined["other"] == last != letter_of(match) else last
        last = letter_of(match)
    return last


def _pronoun(match: re.Match[str], text: str) -> bool:
    """A lone "I" or "A" in running text is a letter only where punctuation or the end follows."""
    return match.group() in ("I", "A") and re.match(r"\s+[A-Za-z]", text[match.end() : match.end() + 5]) is not None


def _denied(text: str, start: int, end: int) -> bool:
    """Whether the letter at a place is denied by the words around it."""
    return (
        letters.DENIED_AFTER.match(text, end) is not None
        or letters.DENIED_BEFORE.search(text[max(0, start - 60) : start].rsplit("\n", 1)[-1]) is not None
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
    find = re.match if start else re.search
    hits = [i for i, option in enumerate(options) if option and find(rf"(?<!\w){re.escape(option)}(?!\w)", said)]
    hits = [i for i in hits if not any(options[i] in options[j] and options[i] != options[j] for j in hits)]
    return chr(65 + hits[0]) if len(hits) == 1 else ""


def _same_number(text: str, context: Context) -> str:
    """The choice that is the same number as the text, where exactly one is ("70" for "$70")."""
    said, *values = (number.value_of(part) for part in (text, *context.choices))
    hits = [
        i for i, value in enumerate(values) if said and value and value.value * value.scale == said.value * said.scale
    ]
    return chr(65 + hits[0]) if len(hits) == 1 else ""
