"""What a collection holds: trajectories of token ids with groups of candidates, as versioned JSON Lines.

One line is one trajectory; the format is `SCHEMA`. Log-probabilities and divergences are in nats and written with six
decimals.

Non-goals: making records (`collect.py`) and writing them safely (`writer.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import NonNegativeInt, StringConstraints
from typing_extensions import TypedDict

from select_to_think.files import parse_records, read_bytes, read_record
from select_to_think.structures import S2TError

SCHEMA: Final = 1
MANIFEST = "manifest.json"
DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Group:
    """The candidates at one triggered step, and what both models say of them.

    The group predicts `output_ids[position]`: both models saw the prompt and `output_ids[:position]`.
    """

    position: NonNegativeInt
    trigger: str  # the triggers that hit this step, comma-separated
    statistic: float  # of the first of them
    candidates: tuple[NonNegativeInt, ...]  # the SLM's top tokens, best first
    slm_logprobs: tuple[float, ...]
    llm_logprobs: tuple[float, ...]
    llm_best_outside_logprob: float | None  # the LLM's best token that is no candidate; None if none is told
    chosen: int  # index of `output_ids[position]` among the candidates, -1 if it is none of them

    def __post_init__(self) -> None:
        """Raise ValueError for lists that do not belong together."""
        if not len(self.candidates) == len(self.slm_logprobs) == len(self.llm_logprobs) > 0:
            raise ValueError(f"the group at position {self.position} has lists of different lengths")
        if not -1 <= self.chosen < len(self.candidates):
            raise ValueError(f"the group at position {self.position} chose none of its candidates")

    @property
    def triggers(self) -> tuple[str, ...]:
        """Every trigger that hit this step."""
        return tuple(self.trigger.split(","))


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One on-policy rollout with its groups, in order of position."""

    schema: Literal[1] = field(default=SCHEMA, kw_only=True)
    id: str
    domain: str
    prompt_ids: tuple[NonNegativeInt, ...]
    output_ids: tuple[NonNegativeInt, ...]
    groups: tuple[Group, ...]
    kl_nats: tuple[float, ...]  # one per output token

    def __post_init__(self) -> None:
        """Raise ValueError for parts that do not belong together."""
        if not self.prompt_ids or len(self.kl_nats) != len(self.output_ids):
            raise ValueError("the prompt is empty, or kl_nats and output_ids differ in length")
        if any(group.position >= len(self.output_ids) for group in self.groups):
            raise ValueError("a group lies outside the output")

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this trajectory."""
        return dict(json.loads(json.dumps(asdict(self)), parse_float=lambda text: round(float(text), DECIMALS)))


class Shard(TypedDict):
    """A sealed file of a collection and what it is about."""

    file: Annotated[str, StringConstraints(pattern=r"^shard-\d{5,}\.jsonl$")]
    sha256: str
    items: list[str]
    question_keys: list[str]


class Manifest(TypedDict):
    """What `manifest.json` holds: the settings, the sealed shards, where the numbers come from."""

    schema: Literal[1]
    config: dict[str, Any]
    decode: dict[str, Any]
    fingerprints: dict[str, str]
    items: dict[str, Any]
    complete: bool
    shards: list[Shard]
    provenance: dict[str, Any]


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a finished collection. Raises S2TError if there is none, or if the collection is unfinished."""
    manifest = read_record(Manifest, Path(folder) / MANIFEST, remedy="name a folder that `s2t collect` wrote")
    if not manifest["complete"]:
        raise S2TError(f"the collection in {folder} is unfinished; run the same `s2t collect` command again")
    return manifest


def question_keys(folder: str | Path) -> list[str]:
    """The `question_key` of every item of a finished collection, in item order: what tests must not hold."""
    shards = read_manifest(folder)["shards"]
    return [key for shard in shards for key in shard["question_keys"]]


def read_trajectories(folder: str | Path) -> Iterator[Trajectory]:
    """Every trajectory of a finished collection, in item order.

    Raises S2TError naming shard and line where one is broken, or the shard if it is not the one that was sealed.
    """
    remedy = "restore the file, or collect again into an empty folder"
    for shard in read_manifest(folder)["shards"]:
        path = Path(folder) / shard["file"]
        content = read_bytes(path, remedy=remedy)
        trajectories = list(parse_records(Trajectory, path, content, remedy=remedy))
        if hashlib.sha256(content).hexdigest() != shard["sha256"]:
            raise S2TError(f"{path} is not the file that was sealed (its SHA-256 differs); {remedy}")
        yield from trajectories
