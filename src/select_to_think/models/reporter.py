"""Progress of `transformers.Trainer`, whatever it trains.

Non-goals: showing it.
"""

from __future__ import annotations

from typing import Any

from transformers.trainer_callback import TrainerCallback

from select_to_think.structures import Progress


class Reporter(TrainerCallback):
    """Passes the Trainer's steps on to a progress callback."""

    def __init__(self, progress: Progress) -> None:
        """Call `progress` with (steps done, all)."""
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps)
