"""What every rule family shares: the two result types and the search for explicit answers in free text.

An answer is looked for in ordered levels, the most explicit first (`#### 42`, `\\boxed{42}`, "the answer is 42"); each
level has a name, and that name travels with the verdict. All searches here are linear in the length of the text.

Non-goals: comparing anything (see the families), and repairing text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_TEXT = 200_000  # characters; of a longer text only the end is read, where answers stand


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
    allow_code_execution: bool = False


NOTHING = Extraction(None, "none")

_THOUGHT_END = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:eos|bos|end_of_turn|start_of_turn)>")
_NEXT_QUESTION = re.compile(r"^[ \t#*]{0,6}(?:question|problem|q)\b[ \t*\d]{0,8}[:.]", re.IGNORECASE | re.MULTILINE)
_SAYS_ANSWER = re.compile(
    r"\banswers?\b[^.:=\n?!]{0,80}?"
    r"(?:\b(?:is|are|was|would be|should be|must be|will be|equals|comes to|becomes)\b\s*:?|[:=])",
    re.IGNORECASE,
)
_DENIED = re.compile(r"[\s*_]*not\b", re.IGNORECASE)
_NOT_BUT = re.compile(r"[\s*_]*not\b[^.\n]{0,80}?\b(?:but|rather|instead)\b(?:\s+it\s+is\b)?", re.IGNORECASE)


def statements(text: str, *, limit: int = 400) -> Iterator[str]:
    """What follows each "the answer is", "Answer:", "answer =" of the text, up to `limit` characters, last first.

    "The answer is not 17" says nothing and is left out; of "is not 17 but 18" the part after "but" is given.
    """
    for match in reversed(list(_ANSWER.finditer(text))):
        tail = text[match.end() : match.end() + limit]
        if turn := _NOT_BUT.match(tail):
            yield tail[turn.end() :]
        elif not _DENIED.match(tail):
            yield tail


def sentence(text: str) -> str:
    """The first sentence or line of a text that is not blank: up to a line break or `.`, `!`, `?` before a blank."""
    text = text.lstrip(" \t\r\n:*_`")
    return re.split(r"(?<=[^\s.])[.!?](?=[\s*_`\"')\]]|$)|\n", text, maxsplit=1)[0].strip()


def last_paragraph(text: str) -> str:
    """The last block of lines that holds anything."""
    blocks = [block for block in re.split(r"\n[ \t]*\n", text) if block.strip()]
    return blocks[-1] if blocks else ""
