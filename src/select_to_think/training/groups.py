"""Collected records as training data: trajectories with their candidate groups, batches, and the validation split.

Non-goals: reading files (`collect/`), losses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from select_to_think.collect.records import Trajectory
from select_to_think.models.loading import LoadedModel
from select_to_think.structures import Floats, Ids, S2TError

VALIDATION_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Example:
    """One rollout as arrays, with its G groups of K candidates."""

    key: str  # of the prompt
    tokens: Ids  # (T,) prompt and output
    positions: Ids  # (G,) index in `tokens` of the token that the group proposes, ascending
    candidates: Ids  # (G, K)
    slm_logprobs: Floats  # (G, K) nats
    llm_logprobs: Floats  # (G, K) nats

    @property
    def length(self) -> int:
        """Cost of the packed row in tokens."""
        return len(self.tokens) + self.candidates.size


def of_slm(slm: LoadedModel, trajectories: Iterable[Trajectory]) -> Iterator[Trajectory]:
    """The trajectories. Raises S2TError for token ids beyond the SLM's vocabulary."""
    for each in trajectories:
        groups = (group.candidates for group in each.groups)
        largest = max(map(max, filter(None, (each.prompt_ids, each.output_ids, *groups))))
        if largest >= slm.vocab_size:
            held = f"the collection holds token {largest}, {slm.name} has {slm.vocab_size}"
            raise S2TError(f"{held}: collect with the SLM to be trained")
        yield each


def make_examples(trajectories: Iterable[Trajectory]) -> list[Example]:
    """Training data of collected trajectories, shortest first; trajectories without groups are dropped.

    Raises:
        S2TError: no groups at all, groups of different sizes, or a value that is not finite, naming the item.
    """
    kept = [each for each in trajectories if each.groups]
    sizes = {len(group.candidates) for each in kept for group in each.groups}
    if not sizes:
        raise S2TError("the collection holds no candidate groups: collect more items or raise the budgets")
    if len(sizes) > 1:
        raise S2TError(f"the collection mixes group sizes {sorted(sizes)}: train on shards of one --group-size")
    return sorted(map(make_example, kept), key=lambda example: example.length)


def make_example(trajectory: Trajectory) -> Example:
    """One trajectory as arrays.

    Raises:
        S2TError: a log-probability that is not finite.
    """
    groups = sorted(trajectory.groups, key=lambda group: group.position)
    example = Example(
        key=prompt_key(trajectory.prompt_ids),
        tokens=np.array([*trajectory.prompt_ids, *trajectory.output_ids], np.int64),
        positions=len(trajectory.prompt_ids) + np.array([group.position for group in groups], np.int64),
        candidates=np.array([group.candidates for group in groups], np.int64),
        slm_logprobs=np.array([group.slm_logprobs for group in groups], np.float32),
        llm_logprobs=np.array([group.llm_logprobs for group in groups], np.float32),
    )
    if not (np.isfinite(example.slm_logprobs).all() and np.isfinite(example.llm_logprobs).all()):
        raise S2TError(f"item {trajectory.id!r} has log-probabilities that are not finite: collect it again")
    return example


def prompt_key(prompt_ids: Sequence[int]) -> str:
    """The key of a prompt."""
    return hashlib.sha256(str(list(map(int, prompt_ids))).encode()).hexdigest()


def is_held_out(key: str, share: float = VALIDATION_SHARE, salt: str = "") -> bool:
    """Whether a question belongs to the held-out share: a hash of its key, so later collections split the same way."""
    hashed = hashlib.sha256(f"{salt}{key}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") < share * 2**64


def digest(arrays: Iterable[np.ndarray[Any, Any]]) -> str:
    """SHA-256 over arrays in order: what a training is about."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(str(array.shape).encode() + array.tobytes())
    return found.hexdigest()


class Keyed(Protocol):
    """What is trained on, by the key of its prompt."""

    @property
    def key(self) -> str:
        """The same for equal prompts."""
        ...


Part = TypeVar("Part", bound=Keyed)


def split(examples: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    """(training, validation) by prompt, so that no problem is on both sides, whatever its ids.

    Raises:
        S2TError: one side is empty.
    """
    sides: tuple[list[Part], list[Part]] = ([], [])
    for each in examples:
        sides[is_held_out(each.key)].append(each)
    if not all(sides):
        raise S2TError(f"{len(examples)} trajectories are too few to hold some out for validation: collect more items")
    return sides


def group_count(examples: Iterable[Example]) -> int:
    """Number of groups."""
    return sum(len(t.positions) for t in examples)


def token_forwards(examples: Iterable[Example], *, packed: bool, whole: bool) -> int:
    """Tokens that one pass feeds through the model with gradient, padding not counted.

    packed: the prefix once (`whole`: to its end, otherwise to the last group) and every candidate once.
    Plain: for every candidate its whole prefix and itself.
    """
    total = 0
    for each in examples:
        group_size = each.candidates.shape[1]
        if packed:
            total += (len(each.tokens) if whole else int(each.positions[-1])) + each.candidates.size
        else:
            total += int((each.positions + 1).sum()) * group_size + (len(each.tokens) if whole else 0)
    return total


def collate(batch: Sequence[Example], *, whole: bool) -> dict[str, Tensor]:
    """Arrays of B examples for the scorer's forward; `whole` keeps the tokens after the last group (coupled)."""
    lengths = [len(t.tokens) if whole else int(t.positions[-1]) for t in batch]
    counts = [t.candidates.size for t in batch]
    prefix = np.zeros((len(batch), max(lengths)), np.int64)
    ids = np.zeros((len(batch), max(counts)), np.int64)
    positions = np.zeros_like(ids)
    for row, each in enumerate(batch):
        prefix[row, : lengths[row]] = each.tokens[: lengths[row]]
        ids[row, : counts[row]] = each.candidates.ravel()
        positions[row, : counts[row]] = each.positions.repeat(each.candidates.shape[1])
    return {
        "prefix_ids": torch.from_numpy(prefix),  # (B, L)
        "prefix_places": places(lengths, prefix.shape[1]),  # (P,) of the tokens that are no padding
        "leaf_ids": torch.from_numpy(ids),  # (B, N)
        "leaf_positions": torch.from_numpy(positions),  # (B, N)
        "leaf_places": places(counts, ids.shape[1]),  # (R,)
        "group_rows": torch.from_numpy(np.arange(len(batch)).repeat([len(t.positions) for t in batch])),  # (G,)
        "group_positions": torch.from_numpy(np.concatenate([t.positions for t in batch])),  # (G,)
        "slm_logprobs": torch.from_numpy(np.concatenate([t.slm_logprobs for t in batch])),  # (G, K)
        "llm_logprobs": torch.from_numpy(np.concatenate([t.llm_logprobs for t in batch])),  # (G, K)
    }


def places(counts: Sequence[int], width: int) -> Tensor:
    """Where the first `counts[b]` entries of each row of a (B, width) tensor stand in it, row by row."""
    return torch.cat([torch.arange(count) + row * width for row, count in enumerate(counts)])
