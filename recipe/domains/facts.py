"""Multi-hop questions about the synthetic world; the chain states one fact per hop.

Single facts all occur in training text; the combinations asked in one split occur in no other.

Non-goals: facts that are not in the question's world, negation, counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipe.puzzle import CAREFUL, Solution, conclude
from recipe.world import PERSON_LINKS, PERSON_TRAITS, TOWN_TRAITS, build_world

DOMAIN = "facts"
MISREAD_LINK = "rival"
MISREAD_AS = "friend"
TWO_HOPS = tuple((link, trait) for link in PERSON_LINKS for trait in PERSON_TRAITS) + tuple(
    ("town", trait) for trait in TOWN_TRAITS
)
THREE_HOPS = tuple((link, *path) for link in PERSON_LINKS for path in TWO_HOPS)


@dataclass(frozen=True)
class FactsPuzzle:
    """A person and the relations to follow from there."""

    person: str
    relations: tuple[str, ...]
    domain: str = DOMAIN

    @property
    def key(self) -> str:
        return " ".join([DOMAIN, self.person, *self.relations])

    @property
    def question(self) -> str:
        nested = " of the ".join(reversed(self.relations))
        return f"What is the {nested} of {self.person}?"

    @property
    def spots(self) -> tuple[str, ...]:
        return ("relation",) * self.relations.count(MISREAD_LINK)

    def facts_used(self, misread: frozenset[int] = CAREFUL) -> list[tuple[str, str]]:
        """The (relation, subject) pairs that the chain states."""
        relations = self._read(misread)
        subjects = [self.person, *build_world().follow(self.person, relations)]
        return list(zip(relations, subjects, strict=False))

    def solve(self, misread: frozenset[int] = CAREFUL) -> Solution:
        world = build_world()
        stated = [(relation, subject, world.facts[relation, subject]) for relation, subject in self.facts_used(misread)]
        sentences = [f"The {relation} of {subject} is {value}." for relation, subject, value in stated]
        return conclude(sentences, stated[-1][2])

    def _read(self, misread: frozenset[int]) -> tuple[str, ...]:
        relations = list(self.relations)
        prone = [index for index, relation in enumerate(relations) if relation == MISREAD_LINK]
        for spot, index in enumerate(prone):
            if spot in misread:
                relations[index] = MISREAD_AS
        return tuple(relations)


def draw(rng: Random) -> FactsPuzzle:
    """The next puzzle of the stream."""
    relations = rng.choice(TWO_HOPS if rng.random() < 0.45 else THREE_HOPS)
    return FactsPuzzle(rng.choice(build_world().people), relations)


def draw_single(rng: Random) -> FactsPuzzle:
    """A question about one fact: training text only, never part of a split."""
    relation, subject = rng.choice(list(build_world().facts))
    return FactsPuzzle(subject, (relation,))
