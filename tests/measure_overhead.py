"""Where a step of the runtime goes, on the bundled pair: milliseconds, medians over the steps of full batches.

    OMP_NUM_THREADS=1 python tests/measure_overhead.py 1,8,32,64 greedy

`outside` is what is neither the model's forward nor its head; reading, layout, planning and policies are parts of it.
For a CPU: on a GPU a forward returns before it is computed.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from statistics import mean, median
from typing import Any

import torch

from select_to_think import Session
from select_to_think.config import DecodeConfig
from select_to_think.contexts import transformers_backend
from select_to_think.contexts.flat_model import FlatModel
from select_to_think.contexts.local import LocalBackend
from select_to_think.pairs.problems import load_split
from select_to_think.runtime import Runtime

FULL = 0.8  # of the batch: rows with which a step must begin to count
PARTS: dict[str, tuple[Any, str]] = {
    "step": (Runtime, "step"),
    "forward": (FlatModel, "run"),
    "head": (FlatModel, "head"),
    "read": (transformers_backend, "read"),
    "layout": (FlatModel, "lay_out"),
    "planning": (LocalBackend, "plan"),
    "policies": (Runtime, "answer"),
}
spent: Counter[str] = Counter()


def clock(name: str, owner: Any, method: str) -> None:
    """Let calls of a method add the milliseconds that they take to `spent`."""
    plain = getattr(owner, method)

    def clocked(*args: Any, **settings: Any) -> Any:
        start = time.perf_counter()
        try:
            return plain(*args, **settings)
        finally:
            spent[name] += 1000 * (time.perf_counter() - start)  # type: ignore[assignment]

    setattr(owner, method, clocked)


def full_steps(session: Session, questions: list[str], method: str, batch: int) -> list[Counter[str]]:
    """What each step of a full batch spent, and its rows."""
    found: list[Counter[str]] = []
    step = Runtime.step

    def watched(runtime: Runtime) -> Any:
        spent.clear()
        spent["rows"] = len(runtime.live)
        events = step(runtime)
        spent["outside"] = spent["step"] - spent["forward"] - spent["head"]
        spent["reading"] = spent.pop("read", 0) - spent["head"]
        found.extend([spent.copy()] if spent["rows"] >= FULL * batch else [])
        return events

    Runtime.step = watched  # type: ignore[method-assign]
    session.generate(questions, method, DecodeConfig(max_batch=batch))
    Runtime.step = step  # type: ignore[method-assign]
    return found


def main(batches: str, method: str) -> None:
    torch.set_num_threads(1)
    session = Session.load()
    for name, place in PARTS.items():
        clock(name, *place)
    shown = ("step", "forward", "head", "outside", "reading", "policies", "layout", "planning")
    print("batch rows steps", *shown)
    for batch in map(int, batches.split(",")):
        questions = [problem.question for problem in load_split("validation", limit_per_domain=max(4, batch))]
        full_steps(session, questions, method, batch)  # a warm-up
        found = full_steps(session, questions, method, batch)
        medians = [f"{median(each[name] for each in found):.2f}" for name in shown]
        print(batch, f"{mean(each['rows'] for each in found):.0f}", len(found), *medians, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
