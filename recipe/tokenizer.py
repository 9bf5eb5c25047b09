"""The byte-level BPE tokenizers of the bundled models, trained on the generated text.

`words` serves the pair: every word of the worlds and every number from 0 to 199 is one token, with and without a
leading space. `digits` serves the LLM that has another tokenizer than the SLM: digits stand alone, rare words are in
pieces. In both any other text falls back to bytes, so every string round-trips. Reserved tokens never occur in text:
their rows serve as score bins.

Non-goals: compression of general text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipe.documents import END, END_OF_TEXT, START, stream_documents
from recipe.world import CROPS, EVENTS, ITEMS, JOBS, NAMES, PETS, REGIONS, TOWNS, WEEKDAYS, build_world

Pieces = Literal["words", "digits"]

RESERVED = tuple(f"<|reserved_{index}|>" for index in range(32))
LAST_NUMBER = 199
CORPUS_DOCUMENTS = 20_000
SEED = 0
VOCABULARY: Mapping[Pieces, int] = MappingProxyType({"words": 10_000, "digits": 1_000})  # at most
MAX_LENGTH = 1024
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def train_tokenizer(pieces: Pieces) -> PreTrainedTokenizerFast:
    """Merge until every word of the generated text is one token, or (`digits`) the frequent ones; always the same."""
    backend = Tokenizer(models.BPE())
    by_byte = pre_tokenizers.ByteLevel(add_prefix_space=False)
    single_digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = by_byte if pieces == "words" else pre_tokenizers.Sequence([single_digits, by_byte])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY[pieces],
        min_frequency=1,
        special_tokens=[END_OF_TEXT, START, END, *RESERVED],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = _words()
    backend.train_from_iterator([*sorted(set(words)), *_lexicon()] if pieces == "words" else words, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[START, *RESERVED],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a saved checkpoint."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def _words() -> list[str]:
    """The words of the documents in order. `words` learns from the distinct ones, so that its vocabulary does not
    depend on how often each occurs; `digits` from how often they do."""
    documents = islice(stream_documents("llm", SEED, _split_words), CORPUS_DOCUMENTS)
    return [piece for document in documents for text, _ in document for piece in _split_words(_strip(text))]


def _split_words(text: str) -> list[str]:
    return re.findall(r" ?\w+| ?[^\w\s]|\s", text)


def _strip(text: str) -> str:
    for special in (START, END, END_OF_TEXT):
        text = text.replace(special, "\n")
    return "".join(character for character in text if not character.isdigit())


def _lexicon() -> list[str]:
    words = (*NAMES, *ITEMS, *EVENTS, *WEEKDAYS, *TOWNS, *REGIONS, *CROPS, *JOBS, *PETS, *build_world().people)
    numbers = [str(number) for number in range(LAST_NUMBER + 1)]
    return [form for word in (*words, *numbers) for form in (f" {word}", word if word in numbers else f" {word}")]
