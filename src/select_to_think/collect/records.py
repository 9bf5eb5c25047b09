"""What a collection holds: trajectories of token ids with groups of candidates, as versioned JSON Lines.

One line is one trajectory; the format is `SCHEMA`. Log-probabilities and divergences are in nats and written with six
decimals.

Non-goals: making records (`collect.py`) and writing them safely (`writer.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from select_to_think.files import parse_lines, read_bytes, read_json
from select_to_think.structures import S2TError

SCHEMA = 1
MANIFEST = "manifest.json"
DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Group:
    """The candidates at one triggered step, and what both models say of them.

    The group predicts `output_ids[position]`: both models saw the prompt and `output_ids[:position]`.
    """

    position: int
    trigger: str  # the triggers that hit this step, comma-separated
    statistic: float  # of the first of them
    candidates: tuple[int, ...]  # the SLM's top tokens, best first
    slm_logprobs: tuple[float, ...]
    llm_logprobs: tuple[float, ...]
    llm_best_outside_logprob: float | None  # the LLM's best token that is no candidate; None if there is none
    chosen: int  # index of `output_ids[position]` among the candidates, -1 if it is none of them

    @property
    def triggers(self) -> tuple[str, ...]:
        """Every trigger that hit this step."""
        return tuple(self.trigger.split(","))


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One on-policy rollout with its groups, in order of position."""

    id: str
    domain: str
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    groups: tuple[Group, ...]
    kl_nats: tuple[float, ...]  # one per output token

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this trajectory."""
        return {
            "schema": SCHEMA,
            "id": self.id,
            "domain": self.domain,
            "prompt_ids": list(self.prompt_ids),
            "output_ids": list(self.output_ids),
            "groups": [_group_json(group) for group in self.groups],
            "kl_nats": _rounded(self.kl_nats),
        }


def _group_json(group: Group) -> dict[str, Any]:
    outside = group.llm_best_outside_logprob
    return {
        "position": group.position,
        "trigger": group.trigger,
        "statistic": round(group.statistic, DECIMALS),
        "candidates": list(group.candidates),
        "slm_logprobs": _rounded(group.slm_logprobs),
        "llm_logprobs": _rounded(group.llm_logprobs),
        "llm_best_outside_logprob": None if outside is None else round(outside, DECIMALS),
        "chosen": group.chosen,
    }


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [round(value, DECIMALS) for value in values]


def trajectory_from_json(record: Mapping[str, Any]) -> Trajectory:
    """Read one object. Raises ValueError saying what is wrong with it."""
    if record.get("schema") != SCHEMA:
        raise ValueError(f"schema is {record.get('schema')!r}, this version reads {SCHEMA}")
    try:
        trajectory = Trajectory(
            id=str(record["id"]),
            domain=str(record["domain"]),
            prompt_ids=tuple(map(int, record["prompt_ids"])),
            output_ids=tuple(map(int, record["output_ids"])),
            groups=tuple(_group_from_json(group) for group in record["groups"]),
            kl_nats=tuple(map(float, record["kl_nats"])),
        )
    except KeyError as error:
        raise ValueError(f"field {error} is missing") from error
    except TypeError as error:
        raise ValueError(f"a field has the wrong type ({error})") from error
    if not trajectory.prompt_ids or len(trajectory.kl_nats) != len(trajectory.output_ids):
        raise ValueError("the prompt is empty, or kl_nats and output_ids differ in length")
    if any(not 0 <= group.position < len(trajectory.output_ids) for group in trajectory.groups):
        raise ValueError("a group lies outside the output")
    return trajectory


def _group_from_json(record: Mapping[str, Any]) -> Group:
    outside = record["llm_best_outside_logprob"]
    group = Group(
        position=int(record["position"]),
        trigger=str(record["trigger"]),
        statistic=float(record["statistic"]),
        candidates=tuple(map(int, record["candidates"])),
        slm_logprobs=tuple(map(float, record["slm_logprobs"])),
        llm_logprobs=tuple(map(float, record["llm_logprobs"])),
        llm_best_outside_logprob=None if outside is None else float(outside),
        chosen=int(record["chosen"]),
    )
    if not len(group.candidates) == len(group.slm_logprobs) == len(group.llm_logprobs) > 0:
        raise ValueError(f"the group at position {group.position} has lists of different lengths")
    if not -1 <= group.chosen < len(group.candidates):
        raise ValueError(f"the group at position {group.position} chose none of its candidates")
    return group


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a finished collection. Raises S2TError if there is none, or if the collection is unfinished."""
    path = Path(folder) / MANIFEST
    manifest = read_json(path, remedy="name a folder that `s2t collect` wrote")
    if manifest.get("schema") != SCHEMA:
        raise S2TError(f"{path} has schema {manifest.get('schema')!r}, this version reads {SCHEMA}; collect again")
    if not manifest.get("complete"):
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
        trajectories = []
        for number, record in parse_lines(path, content, remedy=remedy):
            try:
                trajectories.append(trajectory_from_json(record))
            except ValueError as error:
                raise S2TError(f"{path}, line {number}: {error}; {remedy}") from error
        if hashlib.sha256(content).hexdigest() != shard["sha256"]:
            raise S2TError(f"{path} is not the file that was sealed (its SHA-256 differs); {remedy}")
        yield from trajectories
