"""What a server is asked about one prompt, and what may be believed of its answer.

Non-goals: the fields of any server's requests and answers (`servers.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from select_to_think.contexts.remote.transport import Unreadable
from select_to_think.structures import Undecided


@dataclass(frozen=True, slots=True)
class Query:
    """What follows `tokens`: the `top` most probable ids, and the log-probabilities of `ids`."""

    tokens: tuple[int, ...]
    top: int = 1
    ids: tuple[int, ...] = ()  # distinct
    best_only: bool = False  # of `ids` only the best one matters


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer: at least one of the most probable ids, best first, and what was asked, in nats.

    With `Query.best_only` the asked values may be relative to each other, and upper bounds of all but the best.
    """

    top: tuple[tuple[int, float], ...]
    asked: Mapping[int, float]


def token_id(key: str) -> int:
    """The id in "token_id:123"."""
    return int(key.removeprefix("token_id:"))


def nats(value: Any) -> float:
    """A log-probability. Raises `Unreadable` for what is none."""
    return number(value, "log-probability", -math.inf, 1e-3)


def number(value: Any, what: str, low: float, high: float) -> float:
    """A finite number within bounds. Raises `Unreadable` for what is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise Unreadable(f"an answer with {value!r} for a {what}")
    return float(value)


def pairs(told: Sequence[Sequence[Any]]) -> dict[int, float]:
    """SGLang's (log-probability, id, text) by id."""
    return {int(each[1]): nats(each[0]) for each in told}


def ranked(table: Mapping[int, float], query: Query) -> tuple[tuple[int, float], ...]:
    """The most probable ids, best first; the chosen one stands first in `table`, and wins ties."""
    found = sorted(table.items(), key=lambda pair: -pair[1])
    if not found:
        raise Unreadable("an answer without log-probabilities")
    if found[0][0] < 0:
        raise Undecided("the server's most probable token has no id of its own")
    return tuple(pair for pair in found if pair[0] >= 0)[: query.top]


def bounded(table: Mapping[int, float], query: Query) -> dict[int, float]:
    """What was asked. An id that is missing is below all that were told, and so just below the least of them."""
    if not any(i in table for i in query.ids):
        if not query.ids:
            return {}
        raise Undecided("the server tells nothing of any candidate")
    below = float(np.nextafter(np.float32(min(table.values())), np.float32(-np.inf)))
    return {i: table.get(i, below) for i in query.ids}
