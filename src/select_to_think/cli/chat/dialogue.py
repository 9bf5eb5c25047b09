"""What was said, how the next answer is decoded, what of it is shown, and whom it is asked of.

Non-goals: answering (`local.py`, `remote.py`), reading what is typed (`commands.py`).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import cycle, zip_longest
from typing import Any, Protocol

from rich.console import Console

from select_to_think.cli.output import note
from select_to_think.cli.trace import LiveAnswer, Part
from select_to_think.config import MethodSettings
from select_to_think.structures import S2TError

SINGLE = "this pair knows one kind of question, each on its own, and nothing else: /example asks one"


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

    def reply(
        self, turns: Sequence[Turn], method: str | None, settings: MethodSettings, named: Collection[str] = ()
    ) -> Answering:
        """The steps of the answer to what was said last, as they are written, and its ending; a server's own defaults
        give way to settings that are `named`, and to those that are not the default here.

        Raises:
            S2TError: it cannot be answered.
        """
        ...


class Dialogue:
    """Question after question."""

    def __init__(
        self, chat: Chat, method: str | None, settings: MethodSettings, console: Console, *, interactive: bool
    ) -> None:
        """Nothing was said yet; `interactive`: a person types, and is told what an answer took."""
        self.chat, self.method, self.settings = chat, method, settings
        self.console, self.interactive = console, interactive
        self.turns: list[Turn] = []
        self.named: set[str] = set()  # settings that were chosen here
        self.last = LiveAnswer()
        self.results: list[dict[str, Any]] = []
        self.asked: tuple[str, str | None] | None = None  # the last question, and its right answer if that is known
        self.examples = chat.examples()

    @cached_property
    def next_example(self) -> Iterator[Example]:
        """The examples, again and again."""
        if not self.examples:
            raise S2TError("only the bundled pair comes with questions: type one of your own")
        return cycle(self.examples)

    def ask(self, question: str, right: str | None = None) -> None:
        """Put a question and show the answer; `right` is what it should say, if that is known."""
        self.turns.append(("user", question))
        self.last, self.asked = LiveAnswer(), (question, right)
        turns = self.turns[-1:] if self.examples else self.turns
        start = time.monotonic()
        try:
            with closing(self.chat.reply(turns, self.method, self.settings, self.named)) as parts:
                self.last.show(self.console, parts, marks=self.console.is_terminal)
        finally:
            if self.last.steps:
                self.turns.append(("assistant", self.last.text))
                self.results.append(self.result(question))
            else:  # what was not answered was not asked
                self.turns.pop()
        if self.interactive:
            self.sum_up(time.monotonic() - start, right)

    def result(self, question: str) -> dict[str, Any]:
        """The last answer with its whole trace, as JSON; nothing is known of the ending of one that was stopped."""
        ending = {} if self.last.ending is None else asdict(self.last.ending)
        ending.pop("tail", None)
        return {"question": question, "text": self.last.text, **ending, "steps": self.last.steps}

    def sum_up(self, seconds: float, right: str | None) -> None:
        """What the answer took."""
        steps, ending = self.last.steps, self.last.ending
        fired, flips = sum(step["fired"] for step in steps), sum(step["flip"] for step in steps)
        said = [f"{len(steps)} tokens", f"{fired} triggered", f"{flips} flipped", f"{seconds:.1f} s"]
        if failed := sum(step["llm_failed"] for step in steps):
            said.append(f"{failed} without the LLM, which did not answer")
        if ending is not None:
            said.insert(0, ending.method)
            if ending.votes:
                said.append(f"votes: {', '.join(ending.votes)}")
            if ending.finish_reason == "length":
                said.append("cut off: raise --max-new-tokens")
        if right is not None:
            said.append(f"right answer: {right}")
        note(" · ".join(said) + "\n")

    def retry(self) -> None:
        """Ask the last question again, with the next seed."""
        if self.asked is None:
            raise S2TError("nothing was asked yet: type a question")
        question, right = self.asked
        if self.turns[-2:-1] == [("user", question)]:
            del self.turns[-2:]
        decode = replace(self.settings.decode, seed=self.settings.decode.seed + 1)
        self.settings = replace(self.settings, decode=decode)
        self.ask(question, right)

    def reset(self) -> None:
        """Forget what was said."""
        self.turns, self.last, self.asked = [], LiveAnswer(), None

    def select(self, **changes: Any) -> None:
        """Change how choices are made from the next answer on."""
        self.settings = replace(self.settings, select=replace(self.settings.select, **changes))
        self.named |= changes.keys()
