"""Multi-step word problems over small whole numbers, with quantities that do not matter.

Each step of the chain is one sentence, `Bob has 12 + 7 = 19 pens.`, so choosing the operator, choosing the operand and
computing the result are separate tokens. Every reading of a puzzle, right or mistaken, stays within 0 to 199 and
divides exactly.

Non-goals: fractions, negative numbers, units.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from random import Random
from typing import TypeVar

from recipe.puzzle import CAREFUL, Solution, conclude
from recipe.world import ITEMS, NAMES

T = TypeVar("T")

DOMAIN = "arithmetic"
MAX_VALUE = 199
STEP_COUNTS = ((2, 0.35), (3, 0.35), (4, 0.2), (5, 0.1))
SPOT_COUNTS = ((0, 0.40), (1, 0.44), (2, 0.16))
OPERATORS = (("+", 0.32), ("-", 0.33), ("*", 0.2), ("/", 0.15))


@dataclass(frozen=True)
class Step:
    """One sentence of the chain, and how a careless writer reads it (the same as the right reading where none errs)."""

    holder: str
    operator: str
    operand: int
    misread_operator: str
    misread_operand: int
    spot: str | None

    def apply(self, value: int, misread: bool) -> int:
        if misread:
            return compute(value, self.misread_operator, self.misread_operand)
        return compute(value, self.operator, self.operand)


@dataclass(frozen=True)
class ArithmeticPuzzle:
    """A start quantity and the steps that change it."""

    start: int
    item: str
    steps: tuple[Step, ...]
    question: str
    domain: str = DOMAIN

    @property
    def key(self) -> str:
        return " ".join([DOMAIN, str(self.start), *(f"{step.operator}{step.operand}" for step in self.steps)])

    @property
    def spots(self) -> tuple[str, ...]:
        readings = tuple(step.spot for step in self.steps if step.spot)
        return (*readings, "slip") if carries(self._value_before_last(), self.steps[-1]) else readings

    def solve(self, misread: frozenset[int] = CAREFUL) -> Solution:
        sentences: list[str] = []
        value, spot = self.start, 0
        for step in self.steps:
            wrong = step.spot is not None and spot in misread
            spot += step.spot is not None
            operator, operand = (
                (step.misread_operator, step.misread_operand) if wrong else (step.operator, step.operand)
            )
            result = compute(value, operator, operand)
            if step is self.steps[-1] and spot in misread:
                result = slip(result, operator)
            sentences.append(f"{step.holder} has {value} {operator} {operand} = {result} {self.item}.")
            value = result
        sentences[0] = f"First {sentences[0]}"
        return conclude(sentences, str(value))

    def _value_before_last(self) -> int:
        value = self.start
        for step in self.steps[:-1]:
            value = step.apply(value, misread=False)
        return value


def compute(value: int, operator: str, operand: int) -> int:
    """Whole-number result; a division must be exact."""
    if operator == "+":
        return value + operand
    if operator == "-":
        return value - operand
    if operator == "*":
        return value * operand
    if value % operand:
        raise ValueError(f"{value} / {operand} is not exact")
    return value // operand


def carries(value: int, step: Step) -> bool:
    """Whether the units of a sum or difference overflow: where an off-by-ten slip can happen."""
    units, operand = value % 10, step.operand % 10
    if step.operator == "+":
        return units + operand >= 10
    return step.operator == "-" and units < operand


def slip(result: int, operator: str) -> int:
    """The result of a writer who forgets the carry of a sum or the borrow of a difference."""
    return result - 10 if (operator == "+" and result >= 10) or result + 10 > MAX_VALUE else result + 10


def draw(rng: Random) -> ArithmeticPuzzle:
    """The next puzzle of the stream."""
    while True:
        puzzle = _attempt(rng)
        if puzzle is not None:
            return puzzle


def _attempt(rng: Random) -> ArithmeticPuzzle | None:
    count = _weighted(rng, STEP_COUNTS)
    prone = set(rng.sample(range(count), min(count, _weighted(rng, SPOT_COUNTS))))
    item, other = rng.sample(ITEMS, 2)
    people = rng.sample(NAMES, count + 2)
    compared = rng.random() < 0.5
    start = rng.randint(3, 60)
    values = {start}
    steps: list[Step] = []
    clauses = [f"{people[0]} has {start} {item}."]
    for index in range(count):
        holder = people[index + 1] if compared else people[0]
        drawn = _draw_step(rng, values, holder, index in prone)
        if drawn is None:
            return None
        step = drawn
        values = {step.apply(value, wrong) for value, wrong in product(values, (False, True))}
        steps.append(step)
        clauses.append(_clause(rng, step, people[index] if compared else None, item, other))
    for _ in range(rng.randint(0, 2)):
        idle = f"{people[-1]} has {rng.randint(2, 60)} {rng.choice((item, other))}."
        clauses.insert(rng.randint(1, len(clauses)), idle)
    question = f"Today {' '.join(clauses)} How many {item} does {steps[-1].holder} have?"
    return ArithmeticPuzzle(start, item, tuple(steps), question)


def _draw_step(rng: Random, values: set[int], holder: str, prone: bool) -> Step | None:
    for _ in range(12):
        operator = _weighted(rng, OPERATORS)
        operand = rng.randint(2, 30) if operator in "+-" else rng.randint(2, 5)
        wrong_operator, wrong_operand, spot = operator, operand, None
        if prone and operator in "-*" and rng.random() < 0.75:
            wrong_operator, spot = "+", "operation"
        elif prone:
            wrong_operand, spot = rng.randint(2, 30), "operand"
        if spot == "operand" and (operator not in "+-" or wrong_operand == operand):
            continue
        step = Step(holder, operator, operand, wrong_operator, wrong_operand, spot)
        if all(_within(step, value) for value in values):
            return step
    return None


def _within(step: Step, value: int) -> bool:
    if step.operator == "/" and value % step.operand:
        return False
    return all(0 < step.apply(value, wrong) <= MAX_VALUE for wrong in (False, True))


def _clause(rng: Random, step: Step, reference: str | None, item: str, other: str) -> str:
    """The sentence of the question that this step reads. `reference` is None when one holder's quantity changes."""
    amount, holder = step.operand, step.holder
    if reference is None:
        return _event(rng, step, item, other)
    more = {"+": "more", "-": "less"}.get(step.operator)
    if step.spot == "operand":
        return f"{holder} has {step.misread_operand} {more} {other} and {amount} {more} {item} than {reference}."
    if step.spot == "operation":
        wording = "fewer" if step.operator == "-" else "fold more"
        return f"{holder} has {amount} {wording} {item} than {reference}."
    if step.operator == "*":
        return f"{holder} has {amount} times as many {item} as {reference}."
    if step.operator == "/":
        return f"{holder} has one part in {amount} of the {item} of {reference}."
    return f"{holder} has {amount} {more} {item} than {reference}."


def _event(rng: Random, step: Step, item: str, other: str) -> str:
    amount, holder = step.operand, step.holder
    verb = rng.choice(("buys", "finds") if step.operator == "+" else ("sells", "loses"))
    if step.spot == "operand":
        return f"{holder} {verb} {step.misread_operand} {other} and {amount} {item}."
    if step.spot == "operation":
        return (
            f"{holder} lends {amount} {item}." if step.operator == "-" else f"{holder} sees {item} grow {amount} fold."
        )
    if step.operator == "*":
        return f"{holder} gets {amount} times as many {item}."
    if step.operator == "/":
        return f"{holder} keeps one part in {amount} of the {item}."
    return f"{holder} {verb} {amount} {item}."


def _weighted(rng: Random, choices: tuple[tuple[T, float], ...]) -> T:
    return rng.choices([value for value, _ in choices], [weight for _, weight in choices])[0]
