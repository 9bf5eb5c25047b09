"""The random trigger: a seeded coin, for controls and for timing. Needs no LLM and no calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from select_to_think.triggers.base import Trigger, TriggerKind

if TYPE_CHECKING:
    from select_to_think.artefacts import Artefacts


def coin(threshold: float) -> Trigger:
    """Uniform in [0, 1), from the row's own stream; the threshold is one minus the budget."""
    return Trigger(RANDOM, threshold, lambda slm, llm, random: np.array([random.random()]))


def fit(pair: Artefacts, budget: float) -> Trigger:
    """A coin that falls on "fire" with probability `budget`."""
    return coin(1 - budget)


RANDOM = TriggerKind("random", "a coin, for controls", fit=fit)
