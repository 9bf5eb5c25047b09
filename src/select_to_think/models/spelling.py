"""A vocabulary as bytes: what each token writes, and how a text is written with the tokens of one model.

Bytes, not characters: a token may hold a part of a character, and a model may stop in the middle of one.

Non-goals: two vocabularies at once (`models/translation.py`), prompts (`models/prompting.py`).
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from typing import Any

from tokenizers import Tokenizer

from select_to_think.models.remote import Model
from select_to_think.models.vocabulary import stop_ids
from select_to_think.structures import S2TError

REMEMBERED = 1 << 16  # texts
ANCHOR = "\n"  # written before a text, and cut off, where a tokenizer treats the beginning of a text in its own way
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Spelling:
    """The tokens of one model as bytes.

    `pieces[i]` is what token i writes (nothing for special tokens and padded rows); `ids` finds an ordinary token by
    what it writes.
    """

    def __init__(self, loaded: Model) -> None:
        """Read the vocabulary of `loaded`.

        Raises:
            S2TError: a tokenizer whose tokens cannot be turned into bytes.
        """
        tokenizer: Any = loaded.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise S2TError(f"{loaded.name} has no fast tokenizer, which two vocabularies need: choose another model")
        self.backend = Tokenizer.from_str(backend.to_str())  # settings of the caller's own stay as they are
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = True  # a text that shows a special token does not write one
        self.stops = stop_ids(loaded)
        special = {i for i, token in self.backend.get_added_tokens_decoder().items() if token.special}
        self.specials = {str(loaded.tokenizer.convert_ids_to_tokens(i)): i for i in special | self.stops}
        self.end = min(self.stops, key=lambda i: (i != tokenizer.eos_token_id, i), default=0)
        self.pieces = token_bytes(self.backend, loaded.vocab_size, set(self.specials.values()), loaded.name)
        self.ids: dict[bytes, int] = {}
        for i, piece in enumerate(self.pieces):
            if piece:
                self.ids.setdefault(piece, i)
        self.ordered = sorted(self.ids)
        self.longest = max(map(len, self.ordered), default=1)
        self.write = lru_cache(REMEMBERED)(self._write)

    @property
    def spans_words(self) -> bool:
        """Whether a token goes on behind a space: then words are not written independently of each other."""
        return any(re.search(rb"\S ", piece) for piece in self.ordered)

    def read(self, ids: Iterable[int]) -> bytes:
        """What tokens write together."""
        return b"".join(self.pieces[i] for i in ids)

    def beginning_with(self, data: bytes) -> Iterator[bytes]:
        """The pieces that begin with `data`, itself included, in order."""
        for place in range(bisect_left(self.ordered, data), len(self.ordered)):
            if not self.ordered[place].startswith(data):
                return
            yield self.ordered[place]

    def _write(self, data: bytes) -> tuple[int, ...]:
        """The tokens of a text that goes on behind other text; what is no UTF-8 is written in the longest pieces.

        A single token's own bytes are that token. The tokens write `data` again, except bytes that no token holds.
        """
        if data in self.ids:
            return (self.ids[data],)
        text = data.decode("utf-8", errors="surrogateescape")
        ids: list[int] = []
        for stray, part in groupby(text, key=lambda character: "\udc80" <= character <= "\udcff"):
            stretch = "".join(part)
            ids += self.munch(stretch.encode("utf-8", "surrogateescape")) if stray else self.encode(stretch)
        return tuple(ids)

    def encode(self, text: str) -> list[int]:
        """The tokenizer's own tokens of `text`; the longest pieces if those would write something else."""
        data = text.encode()
        ids = self.backend.encode(text, add_special_tokens=False).ids
        if self.read(ids) == data:
            return ids
        ids = self.backend.encode(ANCHOR + text, add_special_tokens=False).ids
        for cut in range(1, len(ids)):
            if self.read(ids[:cut]).strip(b" ") == ANCHOR.encode() and self.read(ids[cut:]) == data:
                return ids[cut:]
        return self.munch(data)

    def munch(self, data: bytes) -> list[int]:
        """Tokens for any bytes: always the longest that fits; a byte that no token begins with is left out."""
        ids: list[int] = []
        while data:
            size = next((n for n in range(min(self.longest, len(data)), 0, -1) if data[:n] in self.ids), 0)
            if size:
                ids.append(self.ids[data[:size]])
            data = data[size or 1 :]
        return ids


def token_bytes(backend: Tokenizer, size: int, special: set[int], name: str) -> list[bytes]:
    """What each of `size` ids writes.

    Two kinds of vocabulary are known: byte-level ones, where every byte has a letter, and those that write a space as
    a low block and a stray byte as <0x0A>.

    Raises:
        S2TError: another kind.
    """
    decoder = json.loads(backend.to_str())["decoder"] or {}
    steps = {step["type"] for step in decoder.get("decoders", [decoder]) if step}
    if "ByteLevel" in steps:
        spell = spell_letters
    elif steps & {"Metaspace", "ByteFallback"}:
        spell = spell_blocks
    else:
        raise S2TError(f"the tokens of {name} cannot be read as bytes: two vocabularies need byte-level or BPE models")
    pieces = [b""] * size
    added = backend.get_added_tokens_decoder()
    for token, i in backend.get_vocab().items():
        if i < size and i not in special:
            pieces[i] = added[i].content.encode() if i in added else spell(token)
    return pieces


def spell_letters(token: str) -> bytes:
    """The bytes of a byte-level token."""
    return bytes(BYTES[letter] for letter in token)


def spell_blocks(token: str) -> bytes:
    """The bytes of a token that marks spaces with low blocks."""
    stray = BYTE_TOKEN.fullmatch(token)
    return bytes([int(stray[1], 16)]) if stray else token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def byte_letters() -> dict[str, int]:
    """The letters of byte-level vocabularies: printable bytes stand for themselves, the others come from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = byte_letters()
