"""Who stands where in an order that the question gives as comparisons, from the top down, worded in both directions.

The chain lists the order from the end that the question names and then reads the answer off the list.

Non-goals: partial orders and ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from recipe.puzzle import CAREFUL, Solution, conclude
from recipe.world import NAMES

DOMAIN = "logic"


@dataclass(frozen=True)
class Relation:
    """Wording of one order: comparisons from the upper and from the lower person, and the two ends."""

    above: str
    below: str
    top: str
    bottom: str


RELATIONS = (
    Relation("is older than", "is younger than", "oldest", "youngest"),
    Relation("is taller than", "is shorter than", "tallest", "shortest"),
    Relation("is faster than", "is slower than", "fastest", "slowest"),
    Relation("arrives before", "arrives after", "first", "last"),
)
HESITANT_RELATION = RELATIONS[2]
ASKS = (("from top", 0.26), ("from bottom", 0.32), ("before", 0.16), ("after", 0.26))


@dataclass(frozen=True)
class OrderingPuzzle:
    """People from top to bottom, and what is asked: a place (from one end) or a neighbour of the person there."""

    people: tuple[str, ...]
    relation: Relation
    ask: str
    place: int
    statements: tuple[str, ...]
    domain: str = DOMAIN

    @property
    def key(self) -> str:
        return " ".join([DOMAIN, "order", self.relation.top, self.ask, str(self.place), *self.people])

    @property
    def question(self) -> str:
        return f"Order: {' '.join(self.statements)} {self._asked()}"

    @property
    def spots(self) -> tuple[str, ...]:
        if self.ask == "from bottom":
            return ("direction",)
        if self.ask == "after":
            return ("neighbour",)
        if self.ask == "from top" and self.relation is HESITANT_RELATION:
            return ("hesitation",)
        return ()

    def solve(self, misread: frozenset[int] = CAREFUL) -> Solution:
        wrong = 0 in misread
        order, end = self.people, self.relation.top
        if (self.ask == "from bottom" and not wrong) or (self.ask == "from top" and wrong):
            order, end = order[::-1], self.relation.bottom
        listed = ", ".join(f"{number} {person}" for number, person in enumerate(order, start=1))
        sentences = [f"From {end}: {listed}."]
        if self.ask in ("from top", "from bottom"):
            answer = order[self.place - 1]
            sentences.append(f"Number {self.place} is {answer}.")
        else:
            backward = (self.ask == "before") != wrong
            answer = order[self.place - 2] if backward else order[self.place]
            sentences.append(f"{'Before' if backward else 'After'} {order[self.place - 1]} is {answer}.")
        return conclude(sentences, answer)

    def _asked(self) -> str:
        if self.ask in ("from top", "from bottom"):
            end = self.relation.top if self.ask == "from top" else self.relation.bottom
            return f"Who is number {self.place} from the {end}?"
        return f"Counted from the {self.relation.top}, who is just {self.ask} {self.people[self.place - 1]}?"


def draw(rng: Random) -> OrderingPuzzle:
    """The next puzzle of the stream."""
    people = tuple(rng.sample(NAMES, rng.choices((4, 5, 6), (0.45, 0.35, 0.2))[0]))
    relation = rng.choice(RELATIONS)
    ask = rng.choices([name for name, _ in ASKS], [weight for _, weight in ASKS])[0]
    if ask in ("from top", "from bottom"):
        place = rng.choice([place for place in range(1, len(people) + 1) if 2 * place != len(people) + 1])
    else:
        place = rng.randint(2, len(people) - 1)
    statements = []
    for upper, lower in pairwise(people):
        if rng.random() < 0.5:
            statements.append(f"{upper} {relation.above} {lower}.")
        else:
            statements.append(f"{lower} {relation.below} {upper}.")
    return OrderingPuzzle(people, relation, ask, place, tuple(statements))
