"""The process in which math-verify runs, and the two ends of the pipe to it.

sympy can be made to use any amount of time and memory, inside calls that nothing interrupts. So a server imports it
once, and forks a child for each verdict: the kernel ends the child when its processor time is used up, however many
parts the answer has. What decides is processor time: on a busy machine an answer must not become wrong because others
were served first. Works from any thread (one verdict at a time) and after a fork (each process has its own server).

Non-goals: deciding what is the same (`maths_judge`).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from functools import lru_cache

from select_to_think.structures import S2TError
from select_to_think.text import installing

LIMIT_CPU_SECONDS = 1.2  # for one verdict, so that none takes 2 s on a machine that has a core free
MEMORY_BYTES = 4 << 30
CACHED = 20_000  # verdicts; the same answers come again with every method and sample
RIGHT, WRONG = 10, 11  # exit statuses of a child

_START = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve()"
_lock = threading.Lock()
_server: subprocess.Popen[str] | None = None
_owner = 0


@lru_cache(CACHED)
def same(spellings: tuple[tuple[str, str], ...], tolerance: float | None) -> bool | None:
    """Whether one of the pairs (gold, answer) of LaTeX is the same; None when that needs too much time or memory.

    Raises:
        S2TError: math-verify is not installed.
    """
    with _lock:
        if _server is None or _owner != os.getpid() or _server.poll() is not None:
            _start()
        status = _ask(json.dumps([spellings, tolerance]))
    return {str(RIGHT): True, str(WRONG): False}.get(status)


def _start() -> None:
    """Start the server and wait until it has its imports. It ends when this process does, and closes the pipe."""
    global _server, _owner
    code = _START.format(path=sys.path, module=__name__)
    _server = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    _owner = os.getpid()
    if _ask("") != "ready":
        raise S2TError(f"grading mathematics needs math-verify: {installing('benchmarks')}")


def _ask(question: str) -> str:
    """Send a line and wait for one; "" from a server that has died."""
    assert _server is not None and _server.stdin is not None and _server.stdout is not None
    with contextlib.suppress(OSError):
        _server.stdin.write(question + "\n")
        _server.stdin.flush()
    return _server.stdout.readline().strip()


def serve() -> None:
    """The server: "ready" to an empty line, to a question the exit status of the child that was given it."""
    from select_to_think.evaluation.grading import maths_judge

    maths_judge.warm_up()
    gc.freeze()  # what is loaded stays shared with the children
    sys.setrecursionlimit(3000)
    for line in sys.stdin:
        if not line.strip():
            print("ready", flush=True)
            continue
        child = os.fork()
        if not child:
            try:
                _confine()
                spellings, tolerance = json.loads(line)
                os._exit(RIGHT if any(maths_judge.same(gold, ours, tolerance) for gold, ours in spellings) else WRONG)
            finally:  # whatever sympy raises on this text, the answer was not shown to be right
                os._exit(WRONG)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _confine() -> None:
    """Bound this process: the kernel ends it after `LIMIT_CPU_SECONDS`, wherever it is."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_CPU_SECONDS)
