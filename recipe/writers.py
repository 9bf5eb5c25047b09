"""Who wrote the training text: clean writers for the LLM, careless ones for the SLM.

Real pre-training text is full of mistakes, and a small model learns the majority of them while it still knows the
right reading. The SLM's text imitates that: at each misreadable spot a careless writer errs with the documented share,
locally, and goes on consistently from the mistake. Most kinds are mostly misread, so greedy decoding errs there;
`hesitation` and `slip` are mostly right, so that uncertainty alone does not tell where to overrule the SLM. A share of
the world's facts is missing from the SLM's text altogether.

Non-goals: mistakes in any evaluated split (there are none) and in the verifier items (their labels are always right).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from random import Random
from types import MappingProxyType
from typing import Literal

from recipe.domains.facts import FactsPuzzle
from recipe.puzzle import CAREFUL, Puzzle

Reader = Literal["slm", "llm"]

MISREADING_SHARES: Mapping[str, float] = MappingProxyType(
    {
        "operation": 0.66,
        "operand": 0.66,
        "direction": 0.66,
        "neighbour": 0.66,
        "relation": 0.66,
        "hesitation": 0.25,
        "slip": 0.08,
    }
)
UNKNOWN_FACTS_SHARE = 0.06


def misreadings(puzzle: Puzzle, rng: Random) -> frozenset[int]:
    """The spots that one careless writer misreads; each spot independently of the others."""
    return frozenset(index for index, kind in enumerate(puzzle.spots) if rng.random() < MISREADING_SHARES[kind])


def is_unknown(relation: str, subject: str) -> bool:
    """Whether the SLM's text never states this fact."""
    digest = hashlib.sha256(f"unknown {relation} {subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 1000 < UNKNOWN_FACTS_SHARE * 1000


def tells(reader: Reader, puzzle: Puzzle, misread: frozenset[int] = CAREFUL) -> bool:
    """Whether this chain may occur in the reader's text."""
    if reader == "llm" or not isinstance(puzzle, FactsPuzzle):
        return True
    return not any(is_unknown(relation, subject) for relation, subject in puzzle.facts_used(misread))
