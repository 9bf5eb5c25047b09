"""The words that the domains share, and the world of the facts domain: people, whom they know, where and how they live.

Every one of the shared words is a single token of the pair's tokenizer. The world is fixed by its seed.

Non-goals: questions and chains (`domains.facts`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

NAMES = tuple(
    "Ann Bob Cid Dan Eva Finn Gus Hana Ivo Jon Kim Lea Max Nia Olga Pat Quin Ron Sam Tess Uma Vic Wim Xena Yan Zoe "
    "Amir Bela Cleo Dora Emil Fay Gina Hugo Ida Juan Kira Liam Mona Nils".split()
)
ITEMS = tuple("pens cups books coins stamps shells apples cards keys hats".split())
EVENTS = tuple("market fair dance concert race parade supper lecture meeting match play auction".split())
WEEKDAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
WORLD_SEED = 7
HEADS = tuple("Bra Cor Del Fen Gar Hol Jas Kel Lor Mar Nor Pel Ras Sil Tor Val Wes Yor Zan Dri".split())
TAILS = tuple("ba din fa gon lis mor na rik sel vo".split())
TOWNS = tuple(
    "Ashford Brill Crane Dunmoor Elmstead Foxley Greyhill Hexham Ironbridge Kestrel Larkfield Millbrook Northam Oakham "
    "Pinewood Redcliff Stonewell Thornbury Upwell Westbrook".split()
)
REGIONS = tuple("Northmark Southmark Eastvale Westvale Highland Lowland".split())
CROPS = tuple("rye barley oats hops beans flax maize plums".split())
JOBS = tuple("baker smith tailor potter miller carpenter weaver mason painter fisher sailor doctor".split())
PETS = tuple("cat dog parrot goat rabbit turtle pony owl".split())
PERSON_LINKS = ("friend", "teacher", "rival")
PERSON_TRAITS = {"town": TOWNS, "job": JOBS, "pet": PETS}
TOWN_TRAITS = {"region": REGIONS, "crop": CROPS}


@dataclass(frozen=True)
class World:
    """All facts: `facts[relation, subject]` is the object."""

    people: tuple[str, ...]
    facts: dict[tuple[str, str], str]

    def follow(self, subject: str, relations: tuple[str, ...]) -> list[str]:
        """Objects reached hop by hop, shape (len(relations),)."""
        reached = []
        for relation in relations:
            subject = self.facts[relation, subject]
            reached.append(subject)
        return reached


@cache
def build_world() -> World:
    """The one world that both models read about."""
    rng = Random(WORLD_SEED)
    people = tuple(head + tail for head in HEADS for tail in TAILS)
    facts: dict[tuple[str, str], str] = {}
    for person in people:
        others = [name for name in people if name != person]
        for link, other in zip(PERSON_LINKS, rng.sample(others, len(PERSON_LINKS)), strict=True):
            facts[link, person] = other
        for trait, values in PERSON_TRAITS.items():
            facts[trait, person] = rng.choice(values)
    for town in TOWNS:
        for trait, values in TOWN_TRAITS.items():
            facts[trait, town] = rng.choice(values)
    return World(people, facts)
