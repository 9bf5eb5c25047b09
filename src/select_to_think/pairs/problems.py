"""Problems of the bundled pair, in splits that are disjoint by construction.

A problem belongs to the split that a stable hash of its canonical key names, whatever stream drew it, so no wording,
order of drawing or seed can move it.

Non-goals: training formats and mistakes (`documents`, `writers`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from select_to_think.pairs.domains import arithmetic, facts, orderings, schedules
from select_to_think.pairs.puzzle import Puzzle

SPLIT_PERMILLE = MappingProxyType({"test": 150, "calibration": 70, "validation": 70, "train": 710})
SPLIT_SIZES = MappingProxyType({"test": 500, "calibration": 200, "validation": 200})


@dataclass(frozen=True)
class Problem:
    """One question with its answer and the clean chain of thought, which ends in `The answer is X.`"""

    id: str
    domain: str
    question: str
    answer: str
    solution: str


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


def load_split(split: str, *, limit_per_domain: int | None = None) -> list[Problem]:
    """The first `limit_per_domain` problems of each domain, domain after domain.

    `None` means the whole split (500 per domain for test, 200 for calibration and validation). The training split
    has no end and needs a limit.
    """
    if split not in SPLIT_PERMILLE:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLIT_PERMILLE)}")
    count = SPLIT_SIZES.get(split) if limit_per_domain is None else limit_per_domain
    if count is None:
        raise ValueError("the train split has no end: pass limit_per_domain")
    if count > SPLIT_SIZES.get(split, count):
        raise ValueError(f"the {split} split has {SPLIT_SIZES[split]} problems per domain, not {count}")
    problems: list[Problem] = []
    for domain in DOMAINS:
        for index, puzzle in zip(range(count), stream_puzzles(domain, split), strict=False):
            solution = puzzle.solve()
            problem_id = f"{domain}-{split}-{index:05d}"
            problems.append(Problem(problem_id, domain, puzzle.question, solution.answer, solution.text))
    return problems
