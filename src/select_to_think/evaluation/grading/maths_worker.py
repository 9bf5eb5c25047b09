"""The process in which math-verify runs: one JSON question per line on stdin, one JSON answer per line on stdout.

Its time-outs use SIGALRM and need a main thread, and sympy can be made to use any amount of time and memory; here both
are bounded, and the parent kills what does not answer. What decides is processor time: on a busy machine an answer must
not become wrong because others were served first. Run as a file, it imports nothing of this package.

Non-goals: extraction, lists and tuples (the parent takes those apart).
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any

MEMORY_BYTES = 4 << 30
CPU_SECONDS = 3.0  # for one question; the parent's limit is above it
STEP_SECONDS = 60  # math-verify's own time-outs: wall time of each parse and each comparison


def main() -> None:
    """Answer until stdin ends."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard))
    sys.setrecursionlimit(3000)
    import logging

    logging.disable(logging.CRITICAL)
    try:
        import math_verify  # noqa: F401
    except ImportError:
        print(json.dumps({"ready": False}), flush=True)
        return
    signal.signal(signal.SIGPROF, out_of_time)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        right: bool | None = False
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            right = equal(question["gold"], question["answer"])
        except OutOfTime:
            right = None
        except Exception:  # whatever sympy raises on this text, the answer was not shown to be right
            right = False
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps({"right": right}), flush=True)


class OutOfTime(BaseException):
    """The processor time for one question is used up. Not an `Exception`, so that sympy does not swallow it."""


def out_of_time(number: int, frame: Any) -> None:
    """The handler of the timer."""
    raise OutOfTime


def equal(gold: str, answer: str) -> bool:
    """Whether two LaTeX expressions mean the same, by math-verify, and for equations up to a constant factor."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # units=True would drop trailing letters: \\frac{1}{2}ab would read as 1/2
    normal = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    config = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=normal)]
    parsed = [
        parse(f"${text}$", extraction_config=config, parsing_timeout=STEP_SECONDS, fallback_mode="no_fallback")
        for text in (gold, answer)
    ]
    if not all(parsed):
        return False
    if verify(*parsed, timeout_seconds=STEP_SECONDS, allow_set_relation_comp=True):
        return True
    return _same_equation(parsed[0][0], parsed[1][0])


def _same_equation(gold: Any, answer: Any) -> bool:
    """`y - 2x = 3` and `2y = 4x + 6`: the differences of the sides are multiples of each other."""
    from math_verify.utils import timeout
    from sympy import Eq, simplify

    if not (isinstance(gold, Eq) and isinstance(answer, Eq)):
        return False

    @timeout(STEP_SECONDS)  # type: ignore[untyped-decorator]
    def proportional() -> bool:
        ratio = simplify((gold.lhs - gold.rhs) / (answer.lhs - answer.rhs))
        return bool(ratio.is_number and ratio.is_finite and ratio != 0)

    return bool(proportional())


if __name__ == "__main__":
    main()
