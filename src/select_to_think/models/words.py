"""Where words begin, decided once per vocabulary on the tokens' texts, so that a policy can ask about ids.

A word is the tokens up to the next whitespace: it begins at a token whose text begins with whitespace, and behind one
whose text ends with whitespace. In scripts that are written without spaces every token that begins with one of their
letters begins a word. A token that holds only a part of a character belongs to the word before it. A special token is a
word by itself.

Non-goals: linguistics. A word is the unit in which two models are compared.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from select_to_think.models.vocabulary import stop_ids

if TYPE_CHECKING:
    from select_to_think.models.loading import LoadedModel

WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
LONGEST = 32  # tokens; what goes on without whitespace is cut there
PUBLISHED_LONGEST = 12  # the first one and eleven more


@dataclass(frozen=True)
class Words:
    """The boundaries between words, as token ids."""

    starts: frozenset[int]  # a word begins at them
    ends: frozenset[int]  # a word begins behind them
    longest: int = LONGEST  # tokens
    texts: Sequence[str] | None = None  # of the tokens, where words are compared as text

    def same(self, one: Sequence[int], other: Sequence[int]) -> bool:
        """Whether two words are the same."""
        texts = self.texts
        if texts is None:
            return list(one) == list(other)
        return "".join(texts[token] for token in one) == "".join(texts[token] for token in other)

    def goes_on(self, last: int, following: int) -> bool:
        """Whether `following` belongs to the word that `last` belongs to."""
        return last not in self.ends and following not in self.starts


def word_boundaries(loaded: LoadedModel) -> Words:
    """The boundaries of a model's vocabulary."""
    special = frozenset(loaded.tokenizer.all_special_ids) | stop_ids(loaded)
    texts = token_texts(loaded)
    starts = {i for i, text in enumerate(texts) if text and (text[0].isspace() or written_without_spaces(text[0]))}
    ends = {i for i, text in enumerate(texts) if text and text[-1].isspace()}
    return Words(special | starts, special | ends)


def published_words(loaded: LoadedModel) -> Words:
    """Words as the published code has them: up to the next token that begins with a blank or a line break."""
    special = frozenset(loaded.tokenizer.all_special_ids) | stop_ids(loaded)
    texts = ["" if i in special else text for i, text in enumerate(token_texts(loaded))]
    starts = {i for i, text in enumerate(texts) if not text or text[0] in " \n"}
    return Words(frozenset(starts), special, PUBLISHED_LONGEST, texts)


def token_texts(loaded: LoadedModel) -> list[str]:
    """What each id adds to a text. Decoded behind another token: alone, many a tokenizer drops the leading space."""
    tokenizer = loaded.tokenizer
    before = tokenizer("a", add_special_tokens=False).input_ids[-1:]
    size = len(tokenizer)
    texts = tokenizer.batch_decode(
        [before, *([*before, i] for i in range(size))], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return [text[len(texts[0]) :] for text in texts[1:]]


def written_without_spaces(character: str) -> bool:
    """Whether a character is a letter of a script without spaces between words."""
    return character.isalpha() and unicodedata.name(character, "").startswith(WITHOUT_SPACES)
