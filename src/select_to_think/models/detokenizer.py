"""Text from tokens as they come, without decoding an answer again for each of them.

Non-goals: encoding; bytes of single tokens (`spelling.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what a part of a character decodes to
CONTEXT = 8  # tokens before the new ones that decide how these are written


class Detokenizer:
    """One answer, token by token; the pieces together are what decoding all tokens at once gives."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Nothing is written yet."""
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.begin = self.told = 0  # text is complete up to token `told`; decoding starts at token `begin`

    def push(self, token: int) -> str:
        """The text that a token adds; nothing while it ends within a character."""
        self.tokens.append(token)
        text = self.decode(self.begin, len(self.tokens))
        return "" if text.endswith(UNFINISHED) else self.tell(text)

    def flush(self) -> str:
        """What is left at the end of the answer: a part of a character, as a rule nothing."""
        return self.tell(self.decode(self.begin, len(self.tokens)))

    def tell(self, text: str) -> str:
        """What `text` has beyond what was told."""
        new = text[len(self.decode(self.begin, self.told)) :]
        self.told = len(self.tokens)
        self.begin = max(self.begin, self.told - CONTEXT)
        return new

    def decode(self, first: int, end: int) -> str:
        """The text of some of the tokens, without special ones."""
        return str(self.tokenizer.decode(self.tokens[first:end], skip_special_tokens=True))


class StopStrings:
    """Looks for strings in one answer as it is written."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> None:
        """Look for any of `strings`."""
        self.strings, self.text = strings, Detokenizer(tokenizer)
        self.longest = max(map(len, strings))
        self.tail = ""

    def ended_by(self, token: int) -> bool:
        """Whether the text up to and with this token holds one of the strings."""
        self.tail += self.text.push(token)
        found = any(string in self.tail for string in self.strings)
        self.tail = self.tail[-self.longest :]
        return found
