"""What is known of an LLM that a server runs: its tokenizer and its limits, no weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from select_to_think.models.loading import LoadedModel


@dataclass(frozen=True)
class RemoteModel:
    """A model behind an address. The fingerprint names what the server says of itself: weights it does not show."""

    tokenizer: PreTrainedTokenizerBase
    name: str
    fingerprint: str
    vocab_size: int
    max_positions: int
    stop_ids: frozenset[int]


Model: TypeAlias = "LoadedModel | RemoteModel"


def is_address(name: str | None) -> bool:
    """Whether a model's name is meant as the address of a server, its beginning left out or not."""
    return name is not None and re.match(r"https?://|[\w.-]+:\d+(/|$)", name) is not None
