"""`python -m recipe`: train the bundled pair from scratch; hours on a CPU.

A run that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from recipe.training import Which, train_pair
from select_to_think.cli.command import quiet_libraries
from select_to_think.cli.progress import progress


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what the flags ask for, and name the folders."""
    parser = argparse.ArgumentParser("python -m recipe", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/pair"), help="where slm/, llm/ or llm-x/ are written")
    parser.add_argument("--which", choices=get_args(Which), default="both", help="llm-x is the LLM of demo-x")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the recipe's)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--fresh", action="store_true", help="start again instead of going on from a checkpoint")
    flags = parser.parse_args(arguments)
    if flags.steps is not None and flags.steps < 1:
        parser.error("--steps must be at least 1")
    quiet_libraries(loads_slowly=False)
    for folder in train_pair(
        flags.out, which=flags.which, steps=flags.steps, device=flags.device, resume=not flags.fresh, stage=progress
    ):
        print(folder)


if __name__ == "__main__":
    main()
