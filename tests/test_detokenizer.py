"""Text from tokens as they come: what decoding all of them gives, for tokenizers of each kind."""

from __future__ import annotations

from copy import copy
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from select_to_think.config import PairConfig
from select_to_think.models.detokenizer import Detokenizer, StopStrings, decoder
from select_to_think.pairs.problems import load_split
from select_to_think.session import Session


@cache
def tokenizer(name: str) -> Any:
    if name == "sentencepiece":
        words = ["<unk>", "</s>", "▁", "▁the", "▁a", "b", "c", ".", "▁pen", "▁中", "é", "=", "▁="]
        ids = {token: i for i, token in enumerate([*words, *(f"<0x{byte:02X}>" for byte in range(256))])}
        backend = Tokenizer(models.BPE(ids, [], unk_token="<unk>", byte_fallback=True))
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        backend.decoder = decoders.Sequence(steps)
        return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    session = Session.load(PairConfig(pair="demo-x" if name == "demo-x" else "demo"))
    return (session.llm if name == "demo-x" else session.slm).tokenizer


NAMES = ("demo", "demo-x", "sentencepiece")
UNITS = [[token] for token in range(2, 13)] + [[13 + b for b in text.encode()] + [5] for text in ("é", "€", "😀")]


def answers(name: str) -> st.SearchStrategy[list[int]]:
    """Any tokens; of sentencepiece's bytes only whole characters, which later bytes can make unreadable again."""
    if name != "sentencepiece":
        return st.lists(st.integers(0, len(tokenizer(name)) - 1), max_size=40)
    return st.lists(st.sampled_from(UNITS), max_size=20).map(lambda units: [t for unit in units for t in unit])


def decoded(name: str, tokens: list[int]) -> str:
    return str(tokenizer(name).decode(tokens, skip_special_tokens=True))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_pieces_are_the_whole_text(name: str, data: Any) -> None:
    tokens = data.draw(answers(name))
    detokenizer = Detokenizer(tokenizer(name))
    pieces = [detokenizer.push(token) for token in tokens]
    assert "".join(pieces) + detokenizer.flush() == decoded(name, tokens)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=6)))
    several = Detokenizer(tokenizer(name))
    pieces = [several.push(*tokens[a:b]) for a, b in zip([0, *cuts], [*cuts, len(tokens)], strict=True)]
    assert "".join(pieces) + several.flush() == decoded(name, tokens)


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_stop_string_ends_at_the_token_that_completes_it(name: str) -> None:
    texts = [problem.question for problem in load_split("validation", limit_per_domain=2)]
    for text in texts:
        tokens = tokenizer(name).encode(text, add_special_tokens=False)
        for stop in (text[7:10], text[20:21], text[-6:], text[11:31]):
            looking = StopStrings(tokenizer(name), ("not in there", stop))
            found = next(n for n, token in enumerate(tokens) if looking.ended_by(token))
            assert stop in decoded(name, tokens[: found + 1]) and stop not in decoded(name, tokens[:found])


@pytest.mark.parametrize("name", NAMES)
def test_the_shorter_way_of_decoding_says_the_same(name: str) -> None:
    found, tokens = tokenizer(name), list(range(len(tokenizer(name))))
    for ids in (tokens, tokens[::-1], tokens[3:4], []):
        assert decoder(found)(ids, skip_special_tokens=True) == found.decode(ids, skip_special_tokens=True)
    assert decoder(found) != found.decode


def test_a_tokenizer_that_cleans_up_is_asked_itself() -> None:
    found = copy(tokenizer("demo"))
    found.clean_up_tokenization_spaces = True
    assert decoder(found) == found.decode
