"""The table of triggers: every name that a user may type. A new one is a file beside this one and a line here."""

from __future__ import annotations

from select_to_think.config import Definition
from select_to_think.text import known_name
from select_to_think.triggers.base import TriggerKind
from select_to_think.triggers.entropy import ENTROPY, ENTROPY_PAPER
from select_to_think.triggers.kl import KL, KL_PAPER
from select_to_think.triggers.learned import LEARNED
from select_to_think.triggers.margin import MARGIN
from select_to_think.triggers.random import RANDOM

KINDS = (KL, ENTROPY, MARGIN, RANDOM, LEARNED, KL_PAPER, ENTROPY_PAPER)
TRIGGERS: dict[str, TriggerKind] = {kind.name: kind for kind in KINDS}


def find_trigger(name: str, definition: Definition = "ours") -> TriggerKind:
    """The trigger of that name; with `definition` "paper" in the form of the published code, if it has one of its own.

    Raises:
        S2TError: an unknown name, with the nearest one.
    """
    return TRIGGERS.get(f"{name}-{definition}", TRIGGERS[known_name("trigger", name, TRIGGERS)])


def calibrated(*, with_llm: bool) -> list[TriggerKind]:
    """The triggers whose thresholds are quantiles of their statistic over a pair's own answers."""
    return [kind for kind in TRIGGERS.values() if kind.statistic is not None and (with_llm or not kind.needs_llm)]
