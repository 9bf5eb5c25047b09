"""What every rule family shares: the two result types and the search for explicit answers in free text.

An answer is looked for in ordered levels, the most explicit first (`#### 42`, `\\boxed{42}`, "the answer is 42"); each
level has a name, and that name travels with the verdict. All searches here are linear in the length of the text.

Non-goals: comparing anything (see the families), and repairing text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from select_to_think.config import CodeExecution

MAX_TEXT = 200_000  # characters; of a longer text only the end is read, where answers stand
MAX_ANSWER = 4_000  # characters of one answer
MAX_STATEMENTS = 50  # boxes and "the answer is" that are looked at, from the end

Contradictory = Literal["last", "first"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer found in a text (None: nothing found), in a canonical spelling, and the level that found it."""

    extracted: str | None
    rule: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is right, what was compared, and by which rule (`<type>:<level>[:<comparison>]`)."""

    right: bool
    extracted: str | None
    rule: str


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule may know beside the text: the choices in letter order, and the item's `meta`."""

    choices: Sequence[str] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    allow_code_execution: CodeExecution | None = None
    contradictory: Contradictory = "last"  # which of several statements counts

    def preferred(self, found: Iterable[T]) -> list[T]:
        """What was found in a text, in the order in which it counts."""
        return list(found) if self.contradictory == "first" else list(found)[::-1]


NOTHING = Extraction(None, "none")

_THOUGHT_END = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:eos|bos|end_of_turn|start_of_turn)>")
_NEXT_QUESTION = re.compile(r"^[ \t#*]{0,6}(?:question|problem|q)\b[ \t*\d]{0,8}[:.]", re.IGNORECASE | re.MULTILINE)
_SAYS_ANSWER = re.compile(r"####|\\boxed|\\fbox|\banswer\b[^.\n]{0,40}?(?:\bis\b|[:=])", re.IGNORECASE)


def clean(text: str) -> str:
    """The part of a model's text that may hold its answer.

    Drops special tokens, a thought in front of `</think>`, and whatever a base model invents after its answer when it
    goes on to a next "Question:". Keeps the last `MAX_TEXT` characters.
    """
    text = _SPECIAL.sub(" ", text[-MAX_TEXT:])
    ends = list(_THOUGHT_END.finditer(text))
    if ends and text[ends[-1].end() :].strip():
        text = text[ends[-1].end() :]
    answered = _SAYS_ANSWER.search(text)
    next_question = _NEXT_QUESTION.search(text, answered.end()) if answered else None
    return text[: next_question.start()] if next_question else text


_MARKUP = re.compile(r"\*+|__|`|\\(?:text|textbf|mathrm|mathbf|textit|bf|rm)\s*\{([^{}]{0,300})\}|\\[()\[\]]|\$")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[^\s{]))")
_FINAL = re.compile(r"\bfinal answer is:?\s*(?:\$|\\[(\[]|-?\d)", re.IGNORECASE)
_JOINT_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}|\\q?quad|\\[,;: ()\[\]]|[${}]")
_JOINS_BOXES = re.compile(
    r"\s*|(?:\s+\(?[a-z]+\)?){0,4}\s*(?:,|;|,?\s*\b(?:and|or)\b)\s*(?:[a-z]\w{0,3}\s*=\s*)?", re.IGNORECASE
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def unmarked(text: str) -> str:
    """Without bold, code and dollar signs, and with `\\text{C}` as its content."""
    return _MARKUP.sub(lambda match: match[1] or "", text)


def boxed(text: str) -> list[str]:
    """Contents of the last `\\boxed{...}` in order; `\\boxed 5` counts, and an unclosed box ends with its line.

    Boxes joined by "and", "or" or a comma are one list ("\\boxed{1} and \\boxed{2}" is "1, 2"). Linear: one pass over
    the braces.
    """
    found = list(_BOX.finditer(text))[-MAX_STATEMENTS:]
    closing = _closing_braces(text) if found else {}
    contents: list[str] = []
    end = -1
    for match in found:
        start = match.end()
        if text[start - 1] != "{":
            content = re.split(r"[\s$.,;]", text[start : start + 80], maxsplit=1)[0]
        elif start - 1 in closing:
            content = text[start : min(closing[start - 1], start + MAX_ANSWER)]
        else:
            content = text[start : start + 1000].split("\n", 1)[0]
        between = text[end : match.start()] if 0 <= end <= match.start() <= end + 100 else "."
        end = start + len(content)
        if contents and content.strip() and _JOINS_BOXES.fullmatch(_JOINT_MARKUP.sub(r" \1 ", between)):
            contents[-1] += f", {content.strip()}"
        elif content.strip():
            contents.append(content.strip())
    return contents


def end_boxes(text: str, context: Context) -> list[str]:
    """`boxed` in the order in which it counts; none where a later "the final answer is $5$" counts instead."""
    end = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"), 0)
    overruled = context.contradictory == "last" and _FINAL.search(text, end)
    return [] if overruled else context.preferred(boxed(text))


def _closing_braces(text: str) -> dict[int, int]:
    """Position of each opening brace -> position of the brace that closes it (escaped braces do not count)."""
    closing: dict[int, int] = {}
    open_at: list[int] = []
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            open_at.append(match.start())
        elif match.group() == "}" and open_at:
            closing[open_at.pop()] = match.start()
    return closing


_ANSWER = re.compile(
    r"\banswers?\b[^.:=\n?!]{0,80}?"
    r"(?:\b(?:is|are|was|would be|should be|must be|will be|equals|comes to|becomes)\b\s*:?|[:=])|<answer>",
    re.IGNORECASE,
)
_DENIED = re.compile(r"[\s*_]*not\b", re.IGNORECASE)
_NOT_BUT = re.compile(r"[\s*_]*not\b[^.\n]{0,80}?\b(?:but|rather|instead)\b(?:\s+it\s+is\b)?", re.IGNORECASE)


def statements(text: str, context: Context, *, limit: int = 400) -> Iterator[str]:
    """What follows each "the answer is", "Answer:", "answer =" of the text, up to `limit` characters, as preferred.

    "The answer is not 17" says nothing and is left out; of "is not 17 but 18" the part after "but" is given.
    """
    for match in context.preferred(list(_ANSWER.finditer(text))[-MAX_STATEMENTS:]):
        tail = text[match.end() : match.end() + limit].split("</answer>", 1)[0]
        if turn := _NOT_BUT.match(tail):
            yield tail[turn.end() :]
        elif not _DENIED.match(tail):
            yield tail


_SENTENCE_END = re.compile(
    r"(?<=[^\s.])\.(?=[\s*_`\"')\]]|$)|(?<=[A-Za-z]{2})[!?](?=[\s*_`\"')]|$)|(?<=\d)[!?](?=\s|$)|\n"
)


def sentence(text: str) -> str:
    """The first sentence of a text: up to a line break, or `.`, `!`, `?` at the end of a word ("n!" goes on)."""
    return _SENTENCE_END.split(text.lstrip(" \t\r\n:*_`"), maxsplit=1)[0].strip()


def last_paragraph(text: str) -> str:
    """The last block of lines that holds anything."""
    blocks = [block for block in re.split(r"\n[ \t]*\n", text) if block.strip()]
    return blocks[-1] if blocks else ""
