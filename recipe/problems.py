"""Problems of the bundled pair, in splits that are disjoint by construction.

A problem belongs to the split that a stable hash of its canonical key names, whatever stream drew it, so no wording,
order of drawing or seed can move it.

    python -m recipe.problems    # writes the files that the package ships, `pairs/splits/`

Non-goals: training formats and mistakes (`documents`, `writers`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from random import Random
from types import MappingProxyType

from recipe.domains import arithmetic, facts, orderings, schedules
from recipe.puzzle import Puzzle
from select_to_think.pairs.problems import SPLIT_SIZES, Problem, split_file

SPLIT_PERMILLE = MappingProxyType({"test": 150, "calibration": 70, "validation": 70, "train": 710})


def draw_logic(rng: Random) -> Puzzle:
    """Orderings and schedules in equal parts."""
    return orderings.draw(rng) if rng.random() < 0.5 else schedules.draw(rng)


DOMAINS: Mapping[str, Callable[[Random], Puzzle]] = MappingProxyType(
    {"arithmetic": arithmetic.draw, "facts": facts.draw, "logic": draw_logic}
)


def split_of(key: str) -> str:
    """The split that owns a canonical problem key."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 1000
    for split, permille in SPLIT_PERMILLE.items():
        if bucket < permille:
            return split
        bucket -= permille
    raise AssertionError("the shares of the splits add up to 1000")


def stream_puzzles(domain: str, split: str, seed: int = 0) -> Iterator[Puzzle]:
    """Endless puzzles of one split; the training stream may repeat one, the others never do."""
    rng = Random(f"{seed} {domain} {split}")
    seen: set[str] = set()
    while True:
        puzzle = DOMAINS[domain](rng)
        if split_of(puzzle.key) != split or puzzle.key in seen:
            continue
        if split != "train":
            seen.add(puzzle.key)
        yield puzzle


def draw_split(split: str, count: int) -> Iterator[tuple[Problem, str]]:
    """The first `count` problems of each domain, domain after domain, each with its clean chain of thought, which ends
    in `The answer is X.`"""
    for domain in DOMAINS:
        for index, puzzle in zip(range(count), stream_puzzles(domain, split), strict=False):
            solution = puzzle.solve()
            yield Problem(f"{domain}-{split}-{index:05d}", domain, puzzle.question, solution.answer), solution.text


def lines_of(split: str) -> str:
    """What the file of a split holds."""
    return "".join(json.dumps(asdict(problem)) + "\n" for problem, _ in draw_split(split, SPLIT_SIZES[split]))


if __name__ == "__main__":
    for name in SPLIT_SIZES:
        split_file(name).write_bytes(gzip.compress(lines_of(name).encode(), mtime=0))
