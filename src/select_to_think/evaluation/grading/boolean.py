"""Yes or no (StrategyQA): the word that a text settles on.

Levels: `\\boxed{yes}`; "the answer is yes", `#### no`; a text that begins with the word; a last line that is the word;
bold; the last "yes" or "no" of the text that answers something. "True", "correct" count as yes, "false", "incorrect"
as no, and "not true" is no.

Non-goals: reading a verdict out of a plain statement.
"""

from __future__ import annotations

import re

from select_to_think.evaluation.grading.base import NOTHING, Context, Extraction, boxed, clean, statements, unmarked

YES, NO = "yes", "no"
_WORDS = {"yes": YES, "true": YES, "correct": YES, "yeah": YES, "yep": YES, "affirmative": YES}
_WORDS |= {"no": NO, "false": NO, "incorrect": NO, "nope": NO, "negative": NO, "untrue": NO, "wrong": NO}
_CORE = r"yes|no|true|false"
_ALL = "|".join(_WORDS)

_LEAD = (
    r"[\s:\"'\u201c\u2018({\[=>,\-]*(?:(?:clearly|definitely|most likely|likely|probably|therefore|thus|a|an|simply|"
    r"that|it|is|the|statement|indeed|almost certainly|certainly|technically|generally|actually)\b[\s:\"'\u201c]*){0,4}"
)
_STATED = re.compile(rf"{_LEAD}(?P<denied>not\s+(?:a\s+)?)?(?P<word>{_ALL})(?!\w|-\w)", re.IGNORECASE)
_OPENING = re.compile(
    rf"\s*[\"'(]*(?P<word>{_CORE})\b(?!\s+(?:one|matter|idea|doubt|way|evidence|longer|more|other)\b)", re.IGNORECASE
)
_LINE = re.compile(
    rf"\s*[\"'(\[]*(?:(?:so|thus|hence|therefore|then|final verdict|verdict|conclusion|a)\b[\s,:]*)?"
    rf"(?P<word>{_ALL})[\"')\]]*\s*[.!]*\s*$",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(
    rf"(?<![\w'])(?P<denied>not\s+)?(?P<word>{_CORE})(?=\s*(?:[.,;:!?\"')\]]|$|\n))|\b(?:is|are|was|be|statement is)\s+"
    rf"(?P<denied2>not\s+)?(?P<word2>true|false|correct|incorrect)\b",
    re.IGNORECASE,
)
_HASHES = re.compile(r"####([^\n]{1,200})")


def extract(text: str, context: Context) -> Extraction:
    """The levels of the module's docstring."""
    text = clean(text)
    for rule, found in (("boxed", boxed(text)), ("hashes", _HASHES.findall(text)[-20:])):
        for part in context.preferred(found):
            if word := _stated(unmarked(part)):
                return Extraction(word, rule)
    bold = re.findall(r"\*\*([^*\n]{1,100})\*\*", text[-20_000:])
    text = unmarked(text)
    for tail in statements(text, context):
        if word := _stated(tail):
            return Extraction(word, "answer-is")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return NOTHING
    if match := _OPENING.match(text):
        return Extraction(_WORDS[match["word"].casefold()], "opening")
    if match := _LINE.match(lines[-1]):
        return Extraction(_WORDS[match["word"].casefold()], "last-line")
    words = {_WORDS[match["word"].casefold()] for part in bold if (match := _LINE.match(part))}
    if len(words) == 1:
        return Extraction(words.pop(), "bold")
    found_words = list(_ANYWHERE.finditer(text))
    if found_words:
        return Extraction(_word(found_words[-1]), "last-word")
    return NOTHING


def _stated(text: str) -> str:
    """The word that follows "the answer is", or "" where something else follows or both words stand side by side."""
    match = _STATED.match(text)
    if match is None:
        return ""
    word = _WORDS[match["word"].casefold()]
    other = re.match(rf"[\"')]*\s*(?:or|and|/)\s*[\"'(]*(?P<word>{_CORE})\b", text[match.end() :], re.IGNORECASE)
    if other and _WORDS[other["word"].casefold()] != word:
        return ""
    return _turned(word) if match["denied"] else word


def _word(match: re.Match[str]) -> str:
    """The meaning of a match of `_ANYWHERE`."""
    word = _WORDS[(match["word"] or match["word2"]).casefold()]
    return _turned(word) if match["denied"] or match["denied2"] else word


def _turned(word: str) -> str:
    """The other word."""
    return NO if word == YES else YES


def compare(extracted: str, answer: str, context: Context) -> tuple[bool, str]:
    """The same word, whatever synonym the gold uses."""
    return extracted == _WORDS.get(answer.strip().casefold()), "same-word"
