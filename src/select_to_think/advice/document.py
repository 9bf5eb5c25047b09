"""What `s2t advise` leaves behind, typed: what was measured, what follows from it, and where it comes from.

Fractions are 0-1. Reading it needs no torch. Non-goals: computing any of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from select_to_think.evaluation.results import Provenance, ResultRow
from select_to_think.evaluation.statistics import PairedDifference
from select_to_think.files import finite, read_record, write_json_atomic

ADVICE = "advice.json"
SCHEMA: Final = 1
GREEDY, LLM, MENTOR, DISTILL = "greedy", "llm", "mentor-free", "distill"
Class = Literal["not_candidate", "habit", "sure", "unsure"]
Kind = Literal["measured", "probe", "trained"]


@dataclass(frozen=True, slots=True)
class DivergenceRow:
    """The divergences of greedy answers in one domain ("all": every item), each in one class: see `divergences.py`."""

    domain: str
    n_items: int
    n_steps: int
    n_divergences: int
    not_candidate: int
    habit: int
    sure: int
    unsure: int


@dataclass(frozen=True, slots=True)
class RecallRow:
    """Share of the divergences (of each class) among the `budget` of steps that a trigger puts first; None of none."""

    trigger: str  # "learned": a head fitted to the other half of the questions
    budget: float
    all: float | None
    not_candidate: float | None
    habit: float | None
    sure: float | None
    unsure: float | None


@dataclass(frozen=True, slots=True)
class Way:
    """One way to answer, over all items."""

    name: str
    kind: Kind  # "probe": trained on one half of the questions, measured on the other
    row: ResultRow  # `paired` is its gain on the SLM alone, on the same items
    by_domain: dict[str, float]  # accuracy
    trained_on: int | None = None  # questions
    ceiling: str | None = None  # the way that this one cannot be expected to pass

    @property
    def gain(self) -> PairedDifference:
        """What it gains on the SLM alone; the SLM alone gains nothing."""
        return self.row.paired or PairedDifference(0.0, 0.0, 0.0, 0, 0, self.row.n, None)

    @property
    def asks_llm(self) -> bool:
        """Whether it needs an LLM at inference."""
        return self.row.llm_tokens_processed > 0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to do, by names of ways; `greedy` without an LLM, and None with one, where nothing gains."""

    without_llm: str
    with_llm: str | None
    train: str | None  # the way that `--train` trains
    reasons: list[str]
    uncertainty: list[str]


@dataclass(frozen=True, slots=True)
class Check:
    """What came of the training: its measured gain against what was predicted."""

    way: Way
    folder: str
    predicted_low: float  # gain of the probe, the lower end of its interval
    predicted_high: float  # gain of the ceiling, the upper end of its interval
    held: bool  # the measured gain lies between the two
    words: str


@dataclass(frozen=True)
class Advice:
    """The whole of it."""

    schema: Literal[1] = field(default=SCHEMA, kw_only=True)
    graded_by: Literal["answers", "llm"]  # llm: right is what agrees with the LLM
    candidates: int
    n_items: int
    domains: list[str]
    headroom: PairedDifference  # takeover at the largest budget, minus greedy
    hit_at: Mapping[str, float | None]  # over the share of steps of the main budget, as `s2t measure` has it
    main_budget: float
    divergences: list[DivergenceRow]
    recall: list[RecallRow]
    ways: list[Way]
    either: PairedDifference | None  # items that distill or the best scorer gets right, minus distill
    recommendation: Recommendation
    check: Check | None
    provenance: Provenance

    def way(self, name: str | None) -> Way | None:
        """The way of that name, if there is one."""
        return next((way for way in self.ways if way.name == name), None)

    @property
    def probes(self) -> list[Way]:
        """The ways that small trainings were tried in."""
        return [way for way in self.ways if way.kind == "probe"]

    @property
    def reasons(self) -> list[str]:
        """Why this is recommended, and what came of it."""
        return [*self.recommendation.reasons, *([self.check.words] if self.check else ())]

    def to_json(self) -> dict[str, Any]:
        """The object that `s2t advise --json` prints."""
        found: dict[str, Any] = finite(asdict(self))
        return found

    def save(self, folder: Path) -> None:
        """Write it atomically. Raises S2TError if the folder cannot be written."""
        write_json_atomic(folder / ADVICE, self.to_json())


def load_advice(folder: Path) -> Advice:
    """Read it. Raises S2TError if it is missing, broken or of another schema."""
    return read_record(Advice, folder / ADVICE, remedy="delete it or run `s2t advise` again")
