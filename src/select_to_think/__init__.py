"""Select to Think: small language models that reason with a large one's judgement.

The public names below are imported on first use, so that `import select_to_think` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from select_to_think.config import DecodeConfig, PairConfig, SelectConfig
    from select_to_think.session import Session
    from select_to_think.structures import Generation, S2TError, StepRecord

__version__ = "0.1.0"
__all__ = ["DecodeConfig", "Generation", "PairConfig", "S2TError", "SelectConfig", "Session", "StepRecord"]

HOMES = {
    "Session": "session",
    **dict.fromkeys(("DecodeConfig", "PairConfig", "SelectConfig"), "config"),
    **dict.fromkeys(("Generation", "S2TError", "StepRecord"), "structures"),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
