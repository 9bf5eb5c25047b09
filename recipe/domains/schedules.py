"""When something happens, given as offsets from other events: weekdays (which wrap) or hours of one day.

Non-goals: dates, minutes, time zones.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipe.puzzle import CAREFUL, Solution, conclude
from recipe.world import EVENTS, WEEKDAYS

DOMAIN = "logic"
HOURS = 24
WORDINGS = {"later": 1, "after": 1, "before": -1, "earlier": -1}
MISREAD_WORDING = "earlier"
HESITANT_WORDING = "later"


@dataclass(frozen=True)
class Shift:
    """`event` lies `amount` days or hours from the previous event, in this wording."""

    event: str
    amount: int
    wording: str

    @property
    def spot(self) -> str | None:
        if self.wording == MISREAD_WORDING:
            return "operation"
        return "hesitation" if self.wording == HESITANT_WORDING else None


@dataclass(frozen=True)
class SchedulePuzzle:
    """A first event at a known time and a chain of shifts; the last event's time is asked."""

    first: str
    start: int
    shifts: tuple[Shift, ...]
    weekdays: bool
    statements: tuple[str, ...]
    domain: str = DOMAIN

    @property
    def key(self) -> str:
        unit = "day" if self.weekdays else "hour"
        chain = (f"{shift.event}{WORDINGS[shift.wording] * shift.amount:+d}" for shift in self.shifts)
        return " ".join([DOMAIN, unit, self.first, str(self.start), *chain])

    @property
    def question(self) -> str:
        asked = "On which day" if self.weekdays else "At what hour"
        return f"Plan: {' '.join(self.statements)} {asked} is the {self.shifts[-1].event}?"

    @property
    def spots(self) -> tuple[str, ...]:
        return tuple(shift.spot for shift in self.shifts if shift.spot)

    def solve(self, misread: frozenset[int] = CAREFUL) -> Solution:
        sentences: list[str] = []
        time, spot = self.start, 0
        preposition = "on" if self.weekdays else "at"
        for shift in self.shifts:
            sign = WORDINGS[shift.wording]
            if shift.spot:
                sign = -sign if spot in misread else sign
                spot += 1
            moved = time + sign * shift.amount
            step = f"{self._name(time)} {'+' if sign > 0 else '-'} {shift.amount} = {self._name(moved)}"
            sentences.append(f"The {shift.event} is {preposition} {step}.")
            time = moved
        return conclude(sentences, self._name(time))

    def within_a_day(self) -> bool:
        """Whether every reading of an hour schedule stays between 0 and 23."""
        times = {self.start}
        for shift in self.shifts:
            signs = (1, -1) if shift.spot else (WORDINGS[shift.wording],)
            times = {time + sign * shift.amount for time in times for sign in signs}
            if any(not 0 <= time < HOURS for time in times):
                return False
        return True

    def _name(self, time: int) -> str:
        return WEEKDAYS[time % len(WEEKDAYS)] if self.weekdays else str(time)


def draw(rng: Random) -> SchedulePuzzle:
    """The next puzzle of the stream."""
    while True:
        puzzle = _attempt(rng)
        if puzzle.weekdays or puzzle.within_a_day():
            return puzzle


def _attempt(rng: Random) -> SchedulePuzzle:
    weekdays = rng.random() < 0.5
    events = rng.sample(EVENTS, rng.choices((3, 4, 5), (0.45, 0.35, 0.2))[0])
    wordings = list(WORDINGS)
    shifts = tuple(
        Shift(event, rng.randint(1, 3 if weekdays else 6), rng.choices(wordings, (0.1, 0.33, 0.32, 0.25))[0])
        for event in events[1:]
    )
    start = rng.randrange(len(WEEKDAYS)) if weekdays else rng.randint(4, 20)
    unit = "day" if weekdays else "hour"
    where = f"on {WEEKDAYS[start]}" if weekdays else f"at {start}"
    statements = [f"The {events[0]} is {where}."]
    for previous, shift in zip(events, shifts, strict=False):
        units = unit if shift.amount == 1 else f"{unit}s"
        link = f"{shift.wording} than" if shift.wording in ("later", "earlier") else shift.wording
        statements.append(f"The {shift.event} is {shift.amount} {units} {link} the {previous}.")
    return SchedulePuzzle(events[0], start, shifts, weekdays, tuple(statements))
