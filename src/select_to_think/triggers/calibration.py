"""From a trigger budget to a threshold: quantiles of each trigger's statistic on calibration data.

The file holds quantiles instead of one threshold, so any budget can be read off it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from select_to_think.files import read_record
from select_to_think.structures import Floats, S2TError

QUANTILES = 1001
WARM_UP_STEPS = 3  # of the published code: the first steps of an answer, which never fire
CALIBRATION = "calibration.json"  # its name where it comes with a pair or, for a coupled scorer, in the scorer's folder


def exceeded(quantiles: Sequence[float] | Floats, budget: float) -> float:
    """The value that a fraction `budget` exceeds of what has these 0 ... 1 quantiles; nothing at 0, anything at 1."""
    if budget in (0, 1):
        return math.inf if budget == 0 else -math.inf
    return float(np.interp(1 - budget, np.linspace(0, 1, len(quantiles)), quantiles))


@dataclass(frozen=True)
class Calibration:
    """Quantiles of trigger statistics over the steps of greedy answers of the SLM to calibration items, or, beside a
    coupled scorer, of the SLM with that scorer's adapter on."""

    slm_fingerprint: str
    llm_fingerprint: str | None
    quantiles: Mapping[str, Sequence[float]]  # trigger -> its 0, 0.001 ... 1 quantiles
    n_steps: int
    item_ids: Sequence[str]
    after_warm_up: Mapping[str, Sequence[float]] = field(default_factory=dict)  # the same without the first three steps
    question_keys: Sequence[str] = ()  # of the items, in their order: what test questions are compared with
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        """Raise ValueError unless every trigger has all quantiles, in rising order."""
        for name, values in [*self.quantiles.items(), *self.after_warm_up.items()]:
            if len(values) != QUANTILES or any(a > b for a, b in pairwise(values)):
                raise ValueError(f"the quantiles of {name} must be {QUANTILES} rising numbers")

    @classmethod
    def fit(
        cls,
        statistics: Mapping[str, Sequence[Floats]],
        item_ids: Sequence[str],
        slm_fingerprint: str,
        llm_fingerprint: str | None,
    ) -> Calibration:
        """Take the quantiles of each trigger's values, an array for each answer; all triggers saw the same steps."""
        levels = np.linspace(0, 1, QUANTILES)
        tables: list[dict[str, list[float]]] = []
        for first in (0, WARM_UP_STEPS):
            steps = {name: np.concatenate([each[first:] for each in answers]) for name, answers in statistics.items()}
            tables.append({n: np.quantile(v.astype(np.float64), levels).tolist() for n, v in steps.items() if len(v)})
        n_steps = sum(map(len, next(iter(statistics.values()))))
        return cls(slm_fingerprint, llm_fingerprint, tables[0], n_steps, list(item_ids), tables[1])

    def threshold(self, trigger: str, budget: float, warm_up_steps: int = 0) -> float:
        """The value that a fraction `budget` of the calibration steps exceeds; the first `warm_up_steps` of an answer
        do not count.

        Raises:
            S2TError: the trigger was not calibrated, or not for such a warm-up.
        """
        if warm_up_steps not in (0, WARM_UP_STEPS):
            raise S2TError(
                f"thresholds are for a warm-up of 0 or {WARM_UP_STEPS} steps, not {warm_up_steps}: choose one of them"
            )
        table = self.after_warm_up if warm_up_steps else self.quantiles
        if trigger not in table:
            after = f" behind a warm-up of {warm_up_steps} steps" if warm_up_steps else ""
            raise S2TError(
                f"the {trigger} trigger is not calibrated for this pair{after}: run `s2t calibrate` with these models"
            )
        return exceeded(table[trigger], budget)

    def dumps(self) -> str:
        """As JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a calibration file.

        Raises:
            S2TError: missing, or not a whole calibration file of this version.
        """
        return read_record(cls, path, remedy="run `s2t calibrate` to make one")
