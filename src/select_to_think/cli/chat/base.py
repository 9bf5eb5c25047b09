"""What a chat talks to: a pair in this process, or a server.

Non-goals: reading lines, showing answers (`dialogue.py`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

from select_to_think.cli.trace import Part
from select_to_think.config import MethodSettings

KEY_VARIABLE = "S2T_API_KEY"  # of the environment, with the key of a server
Turn = tuple[str, str]  # who said it (user or assistant), and what


Answering = Generator[Part, None, None]  # closing it ends the answer


@dataclass(frozen=True)
class Example:
    """A question that the bundled pair was made for, and its right answer."""

    domain: str
    question: str
    answer: str


def in_turn(examples: Iterable[Example]) -> list[Example]:
    """The domains in turn: the first examples of all, then the second ones."""
    domains: dict[str, list[Example]] = {}
    for example in examples:
        domains.setdefault(example.domain, []).append(example)
    return [example for row in zip_longest(*domains.values()) for example in row if example is not None]


class Chat(Protocol):
    """Answers, step by step."""

    name: str  # of the pair
    default: str  # the method that answers if none is named

    def methods(self) -> Mapping[str, str]:
        """The methods that may be asked for, and what each does."""
        ...

    def examples(self) -> Sequence[Example]:
        """What may be asked of the bundled pair, which knows nothing else; nothing for other pairs."""
        ...

    def reply(self, turns: Sequence[Turn], method: str | None, settings: MethodSettings) -> Answering:
        """The steps of the answer to what was said last, as they are written, and its ending.

        Raises:
            S2TError: it cannot be answered.
        """
        ...
