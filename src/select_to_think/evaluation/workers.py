"""Who holds the models while a command works through its items: this process, or others that it asks.

A command asks the holders what follows from the models and their files (prompts that fit, thresholds, fingerprints),
spreads its items over them, and alone writes down what comes back. On a cluster it loads no model itself
(`integrations/ray_workers.py`).

Non-goals: what is done with an item.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from select_to_think.evaluation.items import Item
from select_to_think.structures import S2TError

if TYPE_CHECKING:
    from select_to_think.session import Session


class Identified(Protocol):
    """What is made of an item: it knows the item's id."""

    @property
    def id(self) -> str: ...


Answer = TypeVar("Answer")
Made = TypeVar("Made", bound=Identified)
Work = Callable[["Session", Sequence[Item]], Iterator[Made]]  # one for each item, in any order


class Workers(ABC):
    """Holders of the models. What they are given to do must not depend on who does it."""

    @abstractmethod
    def ask(self, question: Callable[[Session], Answer]) -> Answer:
        """What one of them says to a question about models, files and settings."""

    @abstractmethod
    def spread(self, work: Work[Made], items: Sequence[Item]) -> Iterator[Made]:
        """What is made of each item, once, as it is finished, whoever makes it."""


class InProcess(Workers):
    """One session, in this process."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def ask(self, question: Callable[[Session], Answer]) -> Answer:
        return question(self.session)

    def spread(self, work: Work[Made], items: Sequence[Item]) -> Iterator[Made]:
        return work(self.session, items)


def workers_of(holder: Session | Workers) -> Workers:
    """The workers that a caller gave, or the one session that it gave instead."""
    return holder if isinstance(holder, Workers) else InProcess(holder)


def require_same_models(expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise S2TError where a worker has other models, artefacts or thresholds than the one that was asked first."""
    other = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if other:
        raise S2TError(
            f"two workers do not hold the same ({', '.join(other)} differ): give all of them the same files and servers"
        )
