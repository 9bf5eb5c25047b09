"""Where the SLM's greedy answers part from the LLM, what kind of mistake each parting is, and which trigger sees it.

A *divergence* is a step of a greedy answer at which the LLM finds its own best token more than `CLEARLY` times as
probable as the SLM's greedy token. Each belongs to the first class that fits:

- `not_candidate`: the LLM's best token is not among the SLM's top K. Selecting cannot mend it.
- `habit`: a linear head on the SLM's last hidden state, fitted to the greedy answers to the *other* half of the
  questions, gives a divergence here at least `FORESEEN`. What can be foreseen from other questions can be learned.
- `sure`: the SLM gives its greedy token at least `SURE`. A trigger that looks at the SLM's doubt does not see it.
- `unsure`: all others.

Steps behind a mistake count too: both models then look at what the SLM has written.

Non-goals: decoding by a trigger (`triggers/`), and training one (`training/trigger.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from select_to_think.advice.document import Class, DivergenceRow, RecallRow
from select_to_think.config import DecodeConfig, SelectConfig
from select_to_think.evaluation.items import Item, with_all
from select_to_think.evaluation.measure import RankedSteps, ranked_steps, top_share
from select_to_think.evaluation.rollouts import labelled_greedy
from select_to_think.files import parse_records, read_bytes, write_jsonl_atomic
from select_to_think.policies.label import Labels
from select_to_think.structures import Floats, Progress, S2TError
from select_to_think.triggers.table import calibrated

if TYPE_CHECKING:
    from select_to_think.session import Session

CLEARLY, FORESEEN, SURE = 2.0, 0.5, 0.9
CLASSES: tuple[Class, ...] = get_args(Class)
LEARNED = "learned"
LOWEST, HIGHEST = -1e4, 1e4  # nats: of what is infinite
REMEDY = "delete it and run the same `s2t advise` command again"
Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ItemSteps:
    """The P steps of the greedy answer to one item: a line of the file of steps."""

    schema: Literal[1]
    id: str
    statistics: dict[str, list[float]]  # trigger -> (P,)
    rank: list[int]  # (P,) see `measure.RankedSteps`
    flip: list[bool]  # (P,)
    slm_probability: list[float]  # (P,) of the SLM's greedy token
    llm_odds_nats: list[float]  # (P,) how much likelier than that token the LLM finds its own best one
    foreseen: list[float]  # (P,) probability of a divergence, by the head that was fitted to the other half

    def __post_init__(self) -> None:
        """Raise ValueError for lists of different lengths."""
        numbers = (self.slm_probability, self.llm_odds_nats, self.foreseen, *self.statistics.values())
        if any(length != len(self.rank) for length in (len(self.flip), *map(len, numbers))):
            raise ValueError(f"the steps of {self.id} have lists of different lengths")

    @property
    def ranked(self) -> RankedSteps:
        """As local sufficiency is measured from them."""
        return RankedSteps(self.id, self.statistic("kl"), np.array(self.rank), np.array(self.flip, bool))

    @property
    def divergent(self) -> Marks:
        """(P,) which steps are divergences."""
        return np.array(self.llm_odds_nats) > math.log(CLEARLY)

    def classes(self, candidates: int) -> NDArray[np.int64]:
        """(P,) place in `CLASSES` of each divergence, -1 at other steps."""
        fits = (
            np.array(self.rank) >= candidates,
            np.array(self.foreseen) >= FORESEEN,
            np.array(self.slm_probability) >= SURE,
        )
        found = np.select(fits, range(len(fits)), len(fits))
        return np.where(self.divergent, found, -1)

    def statistic(self, trigger: str) -> Floats:
        """(P,) of one of the pair's triggers, or of the learned one."""
        return np.array(self.foreseen if trigger == LEARNED else self.statistics[trigger], np.float32)


def observe(
    session: Session,
    halves: Sequence[Sequence[Item]],
    decode: DecodeConfig,
    select: SelectConfig,
    path: Path,
    progress: Progress | None,
) -> dict[str, ItemSteps]:
    """By item id, the steps of the greedy answers to both halves, from the file `path` if it is there.

    Raises S2TError for a file that is broken or about other items.
    """
    items = [item for half in halves for item in half]
    if not path.exists():
        found = _observed(session, items, len(halves[0]), decode, select, progress)
        write_jsonl_atomic(path, found)
    lines = parse_records(ItemSteps, path, read_bytes(path, remedy=REMEDY), remedy=REMEDY)
    steps = {line.id: line for line in lines}
    if list(steps) != [item.id for item in items]:
        raise S2TError(f"{path} is about other questions; {REMEDY}")
    if progress:
        progress(2 * len(items), 2 * len(items))
    return steps


def _observed(
    session: Session,
    items: Sequence[Item],
    first: int,
    decode: DecodeConfig,
    select: SelectConfig,
    progress: Progress | None,
) -> list[dict[str, object]]:
    """The lines of the file; the first half of the items is the `first` of them."""
    lines: dict[int, dict[str, object]] = {}
    states: dict[int, NDArray[np.float16]] = {}  # half precision: all states of all answers are held at once
    marks: dict[int, Marks] = {}
    for index, labels in labelled_greedy(session, items, decode, with_llm=True, hidden=True):
        lines[index] = _line(items[index].id, labels, select)
        if progress:
            progress(len(lines), len(items))
        assert labels.hidden is not None
        states[index] = np.clip(labels.hidden, -6e4, 6e4).astype(np.float16)
        marks[index] = np.array(lines[index]["llm_odds_nats"]) > math.log(CLEARLY)
    numbers = range(len(items))
    for own, other in ((numbers[:first], numbers[first:]), (numbers[first:], numbers[:first])):
        head = Head.fit(np.concatenate([states[i] for i in other]), np.concatenate([marks[i] for i in other]))
        for index in own:
            lines[index]["foreseen"] = head(states[index]).tolist()
    return [lines[index] for index in numbers]


def _line(item_id: str, labels: Labels, select: SelectConfig) -> dict[str, object]:
    """What is kept of one answer's labels, without what the head says."""
    assert labels.llm_top_logprobs is not None and labels.llm_logprobs is not None
    ranked = ranked_steps(item_id, labels, select)
    odds = labels.llm_top_logprobs[:, 0] - labels.llm_logprobs[:, 0]
    return {
        "schema": 1,
        "id": item_id,
        "statistics": {name: _finite(values) for name, values in labels.statistics.items()},
        "rank": ranked.rank.tolist(),
        "flip": ranked.flip.tolist(),
        "slm_probability": np.exp(labels.slm_logprobs[:, 0]).tolist(),
        "llm_odds_nats": _finite(odds),
    }


def _finite(values: Floats) -> list[float]:
    found: list[float] = np.nan_to_num(values, nan=HIGHEST, posinf=HIGHEST, neginf=LOWEST).tolist()
    return found


@dataclass(frozen=True)
class Head:
    """Logistic regression on standardised hidden states, with the weight decay of a prior of unit width."""

    mean: Floats  # (H,)
    spread: Floats  # (H,)
    weights: Floats  # (H + 1,), the bias last

    @classmethod
    def fit(cls, states: NDArray[np.float16], marks: Marks) -> Head:
        """Of (N, H) states and (N,) marks: the minimum of mean log-loss + |w|^2 / (2 N)."""
        mean = states.mean(0, dtype=np.float32)
        spread = np.maximum(states.std(0, dtype=np.float32), 1e-6)
        inputs, count = (states - mean) / spread, len(marks)  # (N, H) fp32

        def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            logits = inputs @ weights[:-1].astype(np.float32) + np.float32(weights[-1])
            wrong = (expit(logits) - marks) / count  # (N,)
            value = float(np.logaddexp(0, np.where(marks, -logits, logits)).mean(dtype=np.float64))
            slope = np.append(wrong @ inputs, wrong.sum()).astype(np.float64)
            slope[:-1] += weights[:-1] / count
            return value + float(weights[:-1] @ weights[:-1]) / (2 * count), slope

        found = minimize(loss, np.zeros(inputs.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 200})
        return cls(mean, spread, found.x.astype(np.float32))

    def __call__(self, states: NDArray[np.float16]) -> Floats:
        """(P, H) -> (P,) probabilities."""
        return np.asarray(expit((states - self.mean) / self.spread @ self.weights[:-1] + self.weights[-1]))


def divergence_rows(items: Sequence[Item], steps: Sequence[ItemSteps], candidates: int) -> list[DivergenceRow]:
    """Steps, divergences and their classes in each domain and in all. `steps`: of each item."""
    rows = []
    for domain in with_all(item.domain for item in items):
        chosen = [entry for item, entry in zip(items, steps, strict=True) if domain in ("all", item.domain)]
        places = np.concatenate([entry.classes(candidates) for entry in chosen])
        counts = {name: int((places == place).sum()) for place, name in enumerate(CLASSES)}
        rows.append(DivergenceRow(domain, len(chosen), len(places), sum(counts.values()), **counts))
    return rows


def recall_rows(steps: Sequence[ItemSteps], budgets: Sequence[float], candidates: int) -> list[RecallRow]:
    """Of every trigger at every budget: which share of the divergences it would see, as a whole and by class."""
    places = np.concatenate([entry.classes(candidates) for entry in steps])
    rows = []
    for trigger in (*(kind.name for kind in calibrated(with_llm=True) if "-" not in kind.name), LEARNED):
        values = [entry.statistic(trigger) for entry in steps]
        for budget in budgets:
            seen = np.concatenate(top_share(values, budget)[0])
            shares = {name: _share(seen[places == place]) for place, name in enumerate(CLASSES)}
            rows.append(RecallRow(trigger, budget, _share(seen[places >= 0]), **shares))
    return rows


def _share(marks: Marks) -> float | None:
    return float(marks.mean()) if len(marks) else None
