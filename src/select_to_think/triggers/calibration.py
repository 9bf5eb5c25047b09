"""From a trigger budget to a threshold: quantiles of each trigger's statistic on calibration data.

The file holds quantiles instead of one threshold, so any budget can be read off it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from select_to_think.files import read_record
from select_to_think.structures import S2TError

QUANTILES = 1001
CALIBRATION = "calibration.json"  # its name where it comes with a pair or, for a coupled scorer, in the scorer's folder


@dataclass(frozen=True)
class Calibration:
    """Quantiles of trigger statistics over the steps of greedy answers of the SLM to calibration items, or, beside a
    coupled scorer, of the SLM with that scorer's adapter on."""

    slm_fingerprint: str
    llm_fingerprint: str | None
    quantiles: Mapping[str, Sequence[float]]  # trigger -> its 0, 0.001 ... 1 quantiles
    n_steps: int
    item_ids: Sequence[str]
    question_keys: Sequence[str] = ()  # of the items, in their order: what test questions are compared with
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        """Raise ValueError unless every trigger has all quantiles, in rising order."""
        for name, values in self.quantiles.items():
            if len(values) != QUANTILES or any(a > b for a, b in pairwise(values)):
                raise ValueError(f"the quantiles of {name} must be {QUANTILES} rising numbers")

    @classmethod
    def fit(
        cls,
        statistics: Mapping[str, Sequence[float]],
        item_ids: Sequence[str],
        slm_fingerprint: str,
        llm_fingerprint: str | None,
    ) -> Calibration:
        """Take the quantiles of each trigger's values; all triggers saw the same steps."""
        levels = np.linspace(0, 1, QUANTILES)
        table = {name: np.quantile(np.asarray(v, np.float64), levels).tolist() for name, v in statistics.items()}
        n_steps = len(next(iter(statistics.values())))
        return cls(slm_fingerprint, llm_fingerprint, table, n_steps, list(item_ids))

    def threshold(self, trigger: str, budget: float) -> float:
        """The value that a fraction `budget` of the calibration steps exceeds.

        Raises:
            S2TError: the trigger was not calibrated.
        """
        if trigger not in self.quantiles:
            raise S2TError(
                f"the {trigger} trigger is not calibrated for this pair: run `s2t calibrate` with these models"
            )
        if budget in (0, 1):
            return math.inf if budget == 0 else -math.inf
        return float(np.interp(1 - budget, np.linspace(0, 1, QUANTILES), self.quantiles[trigger]))

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
