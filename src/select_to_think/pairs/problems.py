"""Problems of the bundled pair in disjoint splits: a file for each, written by `recipe/problems.py`.

Non-goals: how they are drawn and solved.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

DOMAINS = ("arithmetic", "facts", "logic")
SPLIT_SIZES: Mapping[str, int] = MappingProxyType({"test": 500, "calibration": 200, "validation": 200, "train": 4000})


@dataclass(frozen=True)
class Problem:
    """One question with its answer."""

    id: str
    domain: str
    question: str
    answer: str


def split_file(split: str) -> Path:
    """Where the problems of a split lie."""
    return Path(__file__).parent / "splits" / f"{split}.jsonl.gz"


def load_split(split: str, *, limit_per_domain: int | None = None) -> list[Problem]:
    """The first `limit_per_domain` problems of each domain (default: all), domain after domain."""
    if split not in SPLIT_SIZES:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLIT_SIZES)}")
    size = SPLIT_SIZES[split]
    count = size if limit_per_domain is None else limit_per_domain
    if count > size:
        raise ValueError(f"the {split} split has {size} problems per domain, not {count}: ask for fewer")
    lines = gzip.decompress(split_file(split).read_bytes()).decode().splitlines()
    return [Problem(**json.loads(line)) for place, line in enumerate(lines) if place % size < count]
