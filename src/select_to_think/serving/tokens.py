"""Single tokens as bytes and as the texts that log-probabilities are told with.

Non-goals: the text of an answer, which is more than its tokens' texts (`models/detokenizer.py`).
"""

from __future__ import annotations

from functools import cache

from select_to_think.models.loading import LoadedModel
from select_to_think.models.spelling import Spelling
from select_to_think.structures import S2TError

LEAST = -9999.0  # JSON has no infinity; OpenAI says this of tokens that are all but impossible


class TokenTexts:
    """How the tokens of a model are written."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Read the vocabulary."""
        self.tokenizer = loaded.tokenizer
        try:
            self.pieces = Spelling(loaded).pieces
        except S2TError:  # a vocabulary of whole words
            self.pieces = []

    @cache  # noqa: B019 - as large as the vocabulary, for the life of the server
    def data(self, token: int) -> bytes:
        """What a token writes; special ones by their names."""
        if token < len(self.pieces) and self.pieces[token]:
            return self.pieces[token]
        return str(self.tokenizer.decode([token])).encode("utf-8", "replace")

    def text(self, token: int, *, as_id: bool = False) -> str:
        """A token as the key of a log-probability: its text, its bytes where they are no text, or its id."""
        if as_id:
            return f"token_id:{token}"
        data = self.data(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def sayable(logprob: float) -> float:
    """A log-probability as JSON can say it."""
    return max(LEAST, logprob)
