"""The definitions of the published code as settings: what `--preset NAME` stands for, and `SelectConfig.preset(NAME)`.

A preset gives values; what is set beside it wins. Each value is described where its setting is (`config.py`), and
compared with ours in docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from select_to_think.structures import S2TError
from select_to_think.text import known_name

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "s2t-paper": {"trigger_definition": "paper", "warm_up_steps": 3, "scorer_mode": "coupled", "score": "bins"},
    "mentorcollab-paper": {
        "order": "ab",
        "verifier_place": "answer",
        "verifier_template": "{text}\nNow I will choose the next sequence that could lead to the correct answer. "
        "Option (A): {a}, Option (B): {b}. ",
        "verifier_opening": "My choice: Option (",
        "verifier_rule": "top",
        "verifier_state": "before",
        "word_form": "paper",
        "network": "paper",
    },
}


def preset_values(name: str) -> Mapping[str, Any]:
    """The settings of a preset.

    Raises:
        S2TError: an unknown name, with the nearest one.
    """
    return PRESETS[known_name("preset", name, PRESETS)]


def preset_among(name: str, known: Iterable[str], what: str) -> dict[str, Any]:
    """Those settings of a preset that are `known`.

    Raises:
        S2TError: an unknown name, or none of them: it sets nothing of `what`.
    """
    fields = set(known)
    if found := {field: value for field, value in preset_values(name).items() if field in fields}:
        return found
    raise S2TError(f"the preset {name} sets nothing {what}: choose another")
