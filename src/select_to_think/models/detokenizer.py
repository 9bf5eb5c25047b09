"""Text from tokens as they come, without decoding an answer again for each of them.

Non-goals: encoding; bytes of single tokens (`spelling.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what a part of a character decodes to
CONTEXT = 8  # tokens before the new ones that decide how these are written
WINDOW = 32  # tokens that are decoded again for each new one, at most


class Detokenizer:
    """One answer, token by token; the pieces together are what decoding all tokens at once gives."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Nothing is written yet."""
        self.decode_all = decoder(tokenizer)
        self.tokens: list[int] = []
        self.begin = 0  # decoding starts at this token
        self.told = ""  # what the tokens from there on have told

    def push(self, *tokens: int) -> str:
        """The text that tokens add; nothing while they end within a character."""
        self.tokens.extend(tokens)
        text = self.decode()
        return "" if text.endswith(UNFINISHED) else self.tell(text)

    def flush(self) -> str:
        """What is left at the end of the answer: a part of a character, as a rule nothing."""
        return self.tell(self.decode())

    def tell(self, text: str) -> str:
        """What `text` has beyond what was told."""
        new, self.told = text[len(self.told) :], text
        if len(self.tokens) - self.begin > WINDOW:
            self.begin = len(self.tokens) - CONTEXT
            self.told = self.decode()
        return new

    def decode(self) -> str:
        """The text of the latest tokens, without special ones."""
        return self.decode_all(self.tokens[self.begin :], skip_special_tokens=True)


def decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[..., str]:
    """What decodes as `tokenizer.decode` does: the tokenizer below it where that adds nothing but time."""
    from transformers import TokenizersBackend

    plain = isinstance(tokenizer, TokenizersBackend) and type(tokenizer)._decode is TokenizersBackend._decode
    if plain and type(tokenizer).decode is TokenizersBackend.decode and not tokenizer.clean_up_tokenization_spaces:
        return cast(Callable[..., str], tokenizer.backend_tokenizer.decode)
    return cast(Callable[..., str], tokenizer.decode)


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
