"""The bundled model pairs: where their files lie, and their problems. What made both is `recipe/` of a checkout.

Pairs may share files: `demo-x` is the pair `demo` with another LLM.

Non-goals: decoding, evaluation and scorer training. The library loads a pair from here by its name, and
needs nothing of it for any other.
"""

from __future__ import annotations

from pathlib import Path

from select_to_think.text import known_name

PAIRS = Path(__file__).parent
BUNDLED = {"demo": "demo", "demo-x": "demo"}  # pair -> the pair that it has everything but its LLM from


def bundled_folder(pair: str) -> Path:
    """The folder of what ships with a pair beside its LLM. Raises S2TError with the nearest name."""
    return PAIRS / BUNDLED[known_name("pair", pair, BUNDLED)]


def bundled_model(pair: str, role: str) -> Path:
    """The checkpoint of a pair's `slm` or `llm`."""
    return PAIRS / pair / role if role == "llm" else bundled_folder(pair) / role


def bundled_notes(pair: str) -> Path:
    """The file of what must be said beside a pair's numbers."""
    return PAIRS / pair / "notes.json"
