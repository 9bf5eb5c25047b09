"""Two vocabularies for one text: how the tokens of either model stand in those of the other.

Everything is decided on bytes, and on what the SLM's own tokenizer makes of a text. With twice the same vocabulary
every token is translated into itself.

Non-goals: models; probabilities are the business of `policies/interpreter.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

from select_to_think.models.spelling import REMEMBERED, Spelling

Tokens = tuple[int, ...]


class Translation:
    """From SLM tokens to LLM tokens and back."""

    def __init__(self, slm: Spelling, llm: Spelling) -> None:
        """Between two spellings."""
        self.slm, self.llm = slm, llm
        self.rewrite = lru_cache(REMEMBERED)(self._rewrite)
        self.open_ended = lru_cache(REMEMBERED)(self._open_ended)
        self.token_at = lru_cache(REMEMBERED)(self._token_at)
        self.going_on = lru_cache(REMEMBERED)(self._going_on)

    @cached_property
    def by_words(self) -> bool:
        """Whether the LLM writes word by word, so that a word's tokens do not depend on its neighbours."""
        return not self.llm.spans_words

    def words(self, ids: Sequence[int]) -> list[Tokens]:
        """SLM tokens cut where a word begins (a space behind a token that does not end in one) and around special
        tokens: what is rewritten at a time. Only the last one changes when tokens are appended."""
        words: list[list[int]] = []
        for place, i in enumerate(ids):
            if place == 0 or self.parts(ids[place - 1], i):
                words.append([])
            words[-1].append(i)
        return [tuple(word) for word in words]

    def parts(self, before: int, i: int) -> bool:
        """Whether SLM token i begins another word than the token before it belongs to."""
        written, piece = self.slm.pieces[before], self.slm.pieces[i]
        return not written or not piece or (self.by_words and piece[:1] == b" " and not written[-1:].isspace())

    def to_llm(self, ids: Sequence[int]) -> list[int]:
        """The LLM's tokens for a running text in SLM tokens."""
        return [token for word in self.words(ids) for token in self.rewrite(word)]

    def _rewrite(self, word: Tokens) -> Tokens:
        """The LLM's tokens of one word, or of each piece of it where the SLM drew boundaries that its own tokenizer
        does not draw: those a shared vocabulary would hand on as well."""
        data = self.slm.read(word)
        if not data:
            return tuple(token for i in word for token in self.special_to_llm(i))
        if self.slm.write(data) == word:
            return self.llm.write(data)
        return tuple(token for i in word for token in self.llm.write(self.slm.pieces[i]))

    def special_to_llm(self, i: int) -> Tokens:
        """The LLM's token for a special token of the SLM: of the same name, or of the same meaning; else none."""
        return _counterpart(i, self.slm, self.llm)

    def special_to_slm(self, i: int) -> int:
        """The SLM's token for a special token of the LLM: of the same name, else the one that ends a text."""
        return (*_counterpart(i, self.llm, self.slm), self.slm.end)[0]

    def first_token(self, text: bytes, ended: bool) -> int | None:
        """The SLM token that `text` begins with; None while text behind it (none, if it has `ended`) may change that.

        A longer token is not waited for if the LLM has it too: it would have written it.
        """
        if text in self.slm.ids:
            return None if self.open_ended(text) and not ended else self.slm.ids[text]
        if not ended and unfinished(text):
            return None
        reading = self.slm.write(text)
        if ended:
            return reading[0] if reading else self.slm.end
        return reading[0] if len(reading) > 1 else None

    def _token_at(self, data: bytes, offset: int) -> int | None:
        """The SLM token that begins at byte `offset` when the SLM's tokenizer reads `data`; None if none does."""
        place = 0
        for i in self.slm.write(data):
            if place >= offset:
                return i if place == offset else None
            place += len(self.slm.pieces[i])
        return None

    def _open_ended(self, data: bytes) -> bool:
        """Whether the SLM has a longer token for what begins with `data` that the LLM would write piece by piece."""
        return any(piece != data and piece not in self.llm.ids for piece in self.slm.beginning_with(data))

    def _going_on(self, head: bytes, rest: bytes, offset: int) -> dict[int, Tokens]:
        """The LLM's tokens that write `rest` and more behind `head`, by the SLM token that is then read at `offset`."""
        found: dict[int, list[int]] = {}
        for piece in self.llm.beginning_with(rest):
            if piece != rest and (i := self.token_at(head + piece, offset)) is not None:
                found.setdefault(i, []).append(self.llm.ids[piece])
        return {i: tuple(tokens) for i, tokens in found.items()}


def unfinished(data: bytes) -> bool:
    """Whether `data` ends inside its first character."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start == 0 and error.end == len(data) and "unexpected end" in error.reason
    return not data


def _counterpart(i: int, one: Spelling, other: Spelling) -> Tokens:
    same = tuple(other.specials[name] for name, token in one.specials.items() if token == i and name in other.specials)
    return same[:1] or ((other.end,) if i in one.stops else ())
