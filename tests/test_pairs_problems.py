"""Splits, determinism and right answers of the bundled pair's problems, judged independently of the generators."""

import gzip
import hashlib
import operator
import re
from itertools import islice

import pytest

from recipe.problems import DOMAINS, SPLIT_PERMILLE, draw_split, lines_of, split_of, stream_puzzles
from recipe.world import TOWN_TRAITS, TOWNS, build_world
from select_to_think.pairs.problems import SPLIT_SIZES, Problem, load_split, split_file

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ABOVE = ("is older than", "is taller than", "is faster than", "arrives before")
BELOW = ("is younger than", "is shorter than", "is slower than", "arrives after")
DIGESTS = {  # the splits must never change under a published checkpoint
    "test": "ecf0d539c257c225",
    "calibration": "4fc62178cacb2248",
    "validation": "99a7c4f142033126",
    "train": "a707980bc21b9ee9",
}
BOTTOMS = ("youngest", "shortest", "slowest", "last")


@pytest.fixture(scope="module")
def solved() -> list[tuple[Problem, str]]:
    return [*draw_split("train", 400), *draw_split("test", 100)]


@pytest.fixture(scope="module")
def problems(solved: list[tuple[Problem, str]]) -> list[Problem]:
    return [problem for problem, _ in solved]


@pytest.mark.parametrize("split", SPLIT_SIZES)
def test_the_files_hold_what_is_drawn(split: str) -> None:
    held = gzip.decompress(split_file(split).read_bytes())
    assert held.decode() == lines_of(split)
    assert hashlib.sha256(held).hexdigest()[:16] == DIGESTS[split]


def test_default_sizes() -> None:
    assert SPLIT_SIZES == {"test": 500, "calibration": 200, "validation": 200, "train": 4000}
    for split, size in SPLIT_SIZES.items():
        loaded = load_split(split)
        assert {domain: sum(problem.domain == domain for problem in loaded) for domain in DOMAINS} == {
            "arithmetic": size,
            "facts": size,
            "logic": size,
        }
        assert len({problem.id for problem in loaded}) == len(loaded)
        if split != "train":  # whose stream may repeat a question
            assert len({problem.question for problem in loaded}) == len(loaded)


@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_are_disjoint(domain: str) -> None:
    keys = {
        split: {puzzle.key for puzzle in islice(stream_puzzles(domain, split, seed), 300)}
        for split in SPLIT_PERMILLE
        for seed in (0,)
    }
    for split, drawn in keys.items():
        assert {split_of(key) for key in drawn} == {split}
        for other in keys.keys() - {split}:
            assert not drawn & keys[other]


def test_every_training_seed_avoids_the_other_splits() -> None:
    for seed in range(5):
        for domain in DOMAINS:
            assert all(split_of(puzzle.key) == "train" for puzzle in islice(stream_puzzles(domain, "train", seed), 200))


def test_the_key_ignores_wording() -> None:
    puzzles = list(islice(stream_puzzles("logic", "train"), 2000))
    by_key: dict[str, set[str]] = {}
    for puzzle in puzzles:
        by_key.setdefault(puzzle.key, set()).add(puzzle.solve().answer)
    assert all(len(answers) == 1 for answers in by_key.values())


def test_a_limit_gives_the_first_problems() -> None:
    longer = load_split("validation", limit_per_domain=20)
    shorter = load_split("validation", limit_per_domain=5)
    assert [problem for problem in longer if int(problem.id.rsplit("-", 1)[1]) < 5] == shorter
    assert load_split("validation", limit_per_domain=5) == shorter


def test_pinned_problem() -> None:
    """The splits must never change under a published checkpoint."""
    first = load_split("test", limit_per_domain=1)
    assert [problem.id for problem in first] == ["arithmetic-test-00000", "facts-test-00000", "logic-test-00000"]
    assert split_of("facts Braba friend town") == "train"


def test_bad_requests() -> None:
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        load_split("dev")
    for split, size in SPLIT_SIZES.items():
        with pytest.raises(ValueError, match=f"has {size} problems per domain, not {size + 1}: ask for fewer"):
            load_split(split, limit_per_domain=size + 1)


def test_solutions_end_in_the_answer(solved: list[tuple[Problem, str]]) -> None:
    for problem, solution in solved:
        assert solution.endswith(f"The answer is {problem.answer}.")


def test_arithmetic_solutions_are_right(solved: list[tuple[Problem, str]]) -> None:
    for problem, solution in (pair for pair in solved if pair[0].domain == "arithmetic"):
        for left, sign, right, result in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", solution):
            assert OPERATIONS[sign](int(left), int(right)) == int(result), problem
            assert 0 < int(result) <= 199
        assert solve_arithmetic(problem.question) == int(problem.answer), problem


def test_facts_solutions_are_right(problems: list[Problem]) -> None:
    facts = build_world().facts
    for problem in (problem for problem in problems if problem.domain == "facts"):
        match = re.fullmatch(r"What is the (.*) of (\w+)\?", problem.question)
        assert match
        subject = match[2]
        for relation in reversed(match[1].split(" of the ")):
            subject = facts[relation, subject]
        assert subject == problem.answer


def test_logic_solutions_are_right(problems: list[Problem]) -> None:
    solved = {"Order": solve_ordering, "Plan": solve_schedule}
    for problem in (problem for problem in problems if problem.domain == "logic"):
        assert solved[problem.question.split(":")[0]](problem.question) == problem.answer, problem


def test_the_world_is_complete() -> None:
    world = build_world()
    assert len(world.people) == 200
    assert len(world.facts) == 200 * 6 + len(TOWNS) * len(TOWN_TRAITS)


def solve_arithmetic(question: str) -> int:
    """Read the question sentence by sentence, keeping everybody's quantity of the asked thing."""
    asked = re.search(r"How many (\w+) does (\w+) have\?$", question)
    assert asked
    item, person = asked[1], asked[2]
    owned: dict[str, int] = {}
    for sentence in re.findall(r"[^.?]+\.", question.removeprefix("Today")):
        words = sentence.strip(" .").split()
        if item not in words:
            continue
        holder = words[0]
        amount = int(words[words.index(item) - 1]) if words[words.index(item) - 1].isdigit() else None
        numbers = [int(word) for word in words if word.isdigit()]
        near = next((int(word) for word in reversed(words[: words.index(item)]) if word.isdigit()), numbers[0])
        reference = owned.get(words[-1], owned.get(holder, 0))
        if "times" in words or "fold" in words:
            owned[holder] = reference * numbers[0]
        elif "part" in words:
            owned[holder] = reference // numbers[0]
        elif "more" in words:
            owned[holder] = reference + near
        elif "less" in words or "fewer" in words:
            owned[holder] = reference - near
        elif words[1] in ("buys", "finds"):
            owned[holder] += near
        elif words[1] in ("sells", "loses", "lends"):
            owned[holder] -= near
        else:
            assert words[1] == "has" and amount is not None
            owned[holder] = amount
    return owned[person]


def solve_ordering(question: str) -> str:
    above: dict[str, str] = {}
    for sentence in re.findall(r"[^.:?]+\.", question):
        for relation in (*ABOVE, *BELOW):
            if relation in sentence:
                left, right = (name.strip(" .") for name in sentence.split(relation))
                upper, lower = (left, right) if relation in ABOVE else (right, left)
                above[upper] = lower
    (person,) = above.keys() - set(above.values())
    order = [person]
    while person in above:
        person = above[person]
        order.append(person)
    if place := re.search(r"Who is number (\d) from the (\w+)\?", question):
        return (order[::-1] if place[2] in BOTTOMS else order)[int(place[1]) - 1]
    neighbour = re.search(r"who is just (before|after) (\w+)\?", question)
    assert neighbour
    return order[order.index(neighbour[2]) + (1 if neighbour[1] == "after" else -1)]


def solve_schedule(question: str) -> str:
    known: dict[str, int] = {}
    shifts = {}
    for event, amount, wording, other in re.findall(
        r"The (\w+) is (\d+) (?:day|hour)s? (later than|earlier than|before|after) the (\w+)\.", question
    ):
        shifts[event] = (other, int(amount) * (1 if wording in ("later than", "after") else -1))
    start = re.search(r"The (\w+) is (?:on|at) (\w+)\.", question)
    assert start
    known[start[1]] = WEEKDAYS.index(start[2]) if start[2] in WEEKDAYS else int(start[2])
    while len(known) <= len(shifts):
        known |= {event: known[other] + shift for event, (other, shift) in shifts.items() if other in known}
    asked = re.search(r"is the (\w+)\?$", question)
    assert asked
    return WEEKDAYS[known[asked[1]] % 7] if start[2] in WEEKDAYS else str(known[asked[1]])
