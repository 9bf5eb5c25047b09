"""The question that a verifier is asked, as tokens: which of two segments goes on correctly?

It is text around text, so it is tokenised as a whole: the answer so far and both segments are decoded, put into the
template and, as a user's turn, into the chat template. What this costs grows with the text, but it is string work; the
forwards see only the tokens that are new since the last question (`verifiers/base.py`).

Non-goals: reading the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from select_to_think.config import VerifierPlace
from select_to_think.models.prompting import prompt_ids
from select_to_think.structures import S2TError, shared_length

if TYPE_CHECKING:
    from select_to_think.models.loading import LoadedModel

LETTERS = ("A", "B")


@dataclass(frozen=True)
class VerifierPrompt:
    """A template about one question: a user's turn, or at the place "answer" what goes on behind the question itself.

    `opening` is how the verifier's answer begins; a letter follows. Without one the prompt ends before it.
    """

    loaded: LoadedModel
    template: str
    opening: str | None
    place: VerifierPlace = "turn"
    question: str = ""

    @property
    def wording(self) -> tuple[str, str | None, VerifierPlace]:
        """What is asked, whatever the question."""
        return self.template, self.opening, self.place

    def about(self, question: str) -> VerifierPrompt:
        """The same template about another question."""
        return replace(self, question=question)

    def read_at(self, state: str) -> VerifierPrompt:
        """The prompt behind which a network reads the hidden state."""
        return replace(self, opening=None) if state == "before" else self

    def ids(self, before: Sequence[int], first: Sequence[int], second: Sequence[int]) -> list[int]:
        """The prompt up to the letter. `before`: the answer so far; `first` and `second`: what goes on after it."""
        text = self.text(before)
        return self.asked(text, *(self.behind(text, [*before, *segment]) for segment in (first, second)))

    def asked(self, text: str, first: str, second: str) -> list[int]:
        """The prompt of texts."""
        whole = self.answered(LETTERS[0], text, first, second)
        return whole[: len(whole) - self.tail]

    def answered(self, letter: str, text: str = "", first: str = "", second: str = "") -> list[int]:
        """The prompt and an answer; without an opening there is none."""
        values = {"question": self.question, "text": text, "a": first, "b": second}
        content = re.sub(r"\{(question|text|a|b)\}", lambda match: values[match[1]], self.template)
        ending = "" if self.opening is None else self.opening + letter
        if self.place == "turn":
            return prompt_ids(self.loaded, content, begun=ending)
        return prompt_ids(self.loaded, self.question or "?", begun=content + ending)  # a letter's token needs none

    @property
    def longest(self) -> int:
        """Tokens that the verifier can read."""
        return self.loaded.max_positions

    @cached_property
    def letters(self) -> tuple[int, int]:
        """The tokens that tell the two answers apart."""
        one, other = map(self.answered, LETTERS)
        if one == other:
            raise S2TError(f"{self.loaded.name} has no tokens for the letters A and B: use another verifier")
        same = shared_length(one, other)
        return one[same], other[same]

    @cached_property
    def tail(self) -> int:
        """How many tokens of an answered prompt do not belong to the question: the letter, as a rule."""
        one, other = map(self.answered, LETTERS)
        return len(one) - shared_length(one, other)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return str(self.loaded.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def behind(self, text: str, tokens: Sequence[int]) -> str:
        """What `tokens` say behind `text`; a character that `text` holds only a part of counts as behind it."""
        whole = self.text(tokens)
        return whole[shared_length(whole, text) :]
