"""The settings of `s2t advise`.

Non-goals: how questions are answered, graded and priced (`config.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from select_to_think.checked import Checked, option
from select_to_think.config import ScorerMode
from select_to_think.structures import S2TError
from select_to_think.text import comma_separated, known_names
from select_to_think.training.settings import AdapterTraining

MODES: tuple[ScorerMode, ...] = ("activated", "proposer", "coupled")


@dataclass(frozen=True)
class AdviseConfig(Checked):
    """What is tried, and what is trained afterwards."""

    budgets: str = option("0.01,0.03,0.1", "Trigger budgets that are tried, comma-separated.")
    modes: str = option(",".join(MODES), "Scorer modes that are tried, comma-separated.")
    probe: bool = option(True, "Train small probes on half of the questions each, to predict what training gains.")
    train: bool = option(False, "Go on: train what is recommended, and check the prediction on the questions.")
    train_data: Path | None = option(None, "--train: questions to train on (default: the pair's own train split).")
    train_items: int = option(600, "--train: questions per domain to train on.", low=20)

    def __post_init__(self) -> None:
        """Check the ranges and the lists."""
        super().__post_init__()
        _ = self.tried_budgets, self.tried_modes
        if self.train and not self.probe:
            raise S2TError("--train checks the prediction of a probe: leave --no-probe out")

    @property
    def tried_budgets(self) -> list[float]:
        """The budgets, rising. Raises S2TError for anything but fractions above 0."""
        try:
            found = sorted(set(map(float, comma_separated(self.budgets))))
        except ValueError:
            found = []
        if not found or not 0 < found[0] <= found[-1] <= 1:
            raise S2TError(f"--budgets are fractions above 0 and at most 1, comma-separated, got {self.budgets!r}")
        return found

    @property
    def main_budget(self) -> float:
        """The budget in the middle, at which scorers are tried."""
        return self.tried_budgets[len(self.tried_budgets) // 2]

    @property
    def tried_modes(self) -> list[ScorerMode]:
        """The modes, each once. Raises S2TError for an unknown one."""
        return [mode for name in known_names("scorer mode", self.modes, MODES) for mode in MODES if mode == name]


@dataclass(frozen=True)
class ProbeTraining(AdapterTraining):
    """How adapters are trained: more passes than by default, since a probe has few questions."""

    epochs: float = option(8.0, "Passes over the questions; early stopping may end sooner.", low=0.01)
