"""Batches of training documents, as a function of the seed and the batch number alone.

Documents are drawn in pools, sorted by length and cut into batches, so padding is small; the batches of one optimizer
step come from the short, the middle and the long part of a pool, so every step sees every kind of document. Padding is
on the right and masked out of the loss; under a causal mask no token sees it.

Non-goals: packing several documents into one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from recipe.documents import DOMAIN_SHARES, VERIFIER_SHARE, Document, Formats, stream_documents
from recipe.writers import Reader

IGNORED = -100
BATCHES_PER_STEP = 3
STEPS_PER_POOL = 8
Batch = dict[str, torch.Tensor]
Row = tuple[list[int], list[int], list[float]]


Schedule = tuple[tuple[float, float], ...]
"""(part of the run, from 0 to 1; value from there on), in order; 0 before the first."""


class DocumentBatches(Dataset[Batch]):
    """Item i is batch i: `input_ids`, `labels` and `weights`, all (rows, length).

    Documents that show parts of a chain cut it where tokens of `slm_tokenizer` end (default: `tokenizer`).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        reader: Reader,
        seed: int,
        rows: int,
        steps: int,
        shares: Mapping[str, float] = DOMAIN_SHARES,
        verifier_shares: Schedule = ((0.0, VERIFIER_SHARE),),
        slm_tokenizer: PreTrainedTokenizerFast | None = None,
        more_formats: Formats = (),
    ) -> None:
        self.tokenizer, self.reader, self.seed, self.shares = tokenizer, reader, seed, shares
        self.verifier_shares, self.more_formats = verifier_shares, more_formats
        self.split = partial(split_pieces, slm_tokenizer or tokenizer)
        self.rows, self.steps = rows, steps
        self._pool_index = -1
        self._pool: list[Batch] = []

    def __len__(self) -> int:
        return self.steps * BATCHES_PER_STEP

    def __getitem__(self, index: int) -> Batch:
        pool_index, position = divmod(index, BATCHES_PER_STEP * STEPS_PER_POOL)
        if pool_index != self._pool_index:
            self._pool, self._pool_index = self._draw_pool(pool_index), pool_index
        return self._pool[position]

    def _draw_pool(self, pool_index: int) -> list[Batch]:
        seed = self.seed * 1_000_003 + pool_index
        progress = pool_index * STEPS_PER_POOL / self.steps
        verifier_share = [0.0, *(share for start, share in self.verifier_shares if start <= progress)][-1]
        documents = stream_documents(self.reader, seed, self.split, self.shares, verifier_share, self.more_formats)
        count = self.rows * BATCHES_PER_STEP * STEPS_PER_POOL
        drawn = [encode(self.tokenizer, next(documents)) for _ in range(count)]
        drawn.sort(key=lambda row: len(row[0]))
        batches = [
            pad(drawn[start : start + self.rows], self.tokenizer.pad_token_id) for start in range(0, count, self.rows)
        ]
        order = list(range(STEPS_PER_POOL))
        Random(seed).shuffle(order)
        return [batches[part * STEPS_PER_POOL + step] for step in order for part in range(BATCHES_PER_STEP)]


def split_pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The text of each token, in order."""
    spans = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    return [text[start:end] for start, end in spans]


def encode(tokenizer: PreTrainedTokenizerFast, document: Document) -> Row:
    """Token ids, labels and weights of one document; segments of weight 0 have the label `IGNORED`."""
    ids: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    for text, weight in document:
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        labels += piece if weight else [IGNORED] * len(piece)
        weights += [weight] * len(piece)
    return ids, labels, weights


def pad(rows: list[Row], pad_id: int) -> Batch:
    """Rows padded on the right to the longest, shape (rows, length)."""
    length = max(len(ids) for ids, _, _ in rows)
    input_ids = [ids + [pad_id] * (length - len(ids)) for ids, _, _ in rows]
    labels = [labels + [IGNORED] * (length - len(labels)) for _, labels, _ in rows]
    weights = [weights + [0.0] * (length - len(weights)) for _, _, weights in rows]
    return {"input_ids": torch.tensor(input_ids), "labels": torch.tensor(labels), "weights": torch.tensor(weights)}


def unwrap(items: list[Any]) -> Batch:
    """Collate function for a loader whose items are batches already."""
    (batch,) = items
    return dict(batch)
