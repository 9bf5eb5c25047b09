"""The parent's side of `maths_worker`: one process, started when first needed, killed when it does not answer in time.

Works from any thread (one question at a time) and after a fork (each process has its own worker).

Non-goals: deciding what is asked.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from select_to_think.structures import S2TError

LIMIT_CPU_SECONDS = 5.0  # per question; above the worker's own limit, which ends nearly everything first
LIMIT_SECONDS = 120.0  # per question, and for the start, on a busy machine
POLL_SECONDS = 0.5
CACHED = 20_000  # questions; the same answers come again with every method and sample

_WORKER = Path(__file__).with_name("maths_worker.py")
_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None
_owner = 0


@lru_cache(CACHED)
def equal(gold: str, answer: str) -> bool | None:
    """Whether math-verify takes two LaTeX expressions for the same; None when it needs too much time or memory.

    Raises:
        S2TError: math-verify is not installed, or the worker does not start.
    """
    global _process
    with _lock:
        if _process is None or _owner != os.getpid() or _process.poll() is not None:
            _start()
        try:
            reply = _ask({"gold": gold, "answer": answer}, LIMIT_CPU_SECONDS)
        except (OSError, ValueError):  # it died over the question, for example for want of memory
            reply = None
        if reply is None:
            _stop()
            return None
        return None if reply["right"] is None else bool(reply["right"])


def _start() -> None:
    """Start the worker and wait until it has its imports."""
    global _process, _owner
    # -P: the folder of this file holds `number.py` and `code.py`, which must not hide modules of others
    _process = subprocess.Popen(
        [sys.executable, "-P", str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _owner = os.getpid()
    atexit.unregister(_stop)
    atexit.register(_stop)
    try:
        reply = _ask(None, LIMIT_SECONDS)
    except (OSError, ValueError):
        reply = None
    if reply is None or not reply["ready"]:
        _stop()
        raise S2TError("grading mathematics needs math-verify: pip install 'select-to-think[benchmarks]'")


def _ask(question: dict[str, str] | None, cpu_seconds: float) -> Any:
    """Send a question (None: only listen) and wait for one line; None when the worker's time is up."""
    assert _process is not None and _process.stdin is not None and _process.stdout is not None
    cpu_end, wall_end = _cpu_seconds(_process.pid) + cpu_seconds, time.monotonic() + LIMIT_SECONDS
    if question is not None:
        _process.stdin.write(json.dumps(question).encode() + b"\n")
        _process.stdin.flush()
    with selectors.DefaultSelector() as selector:
        selector.register(_process.stdout, selectors.EVENT_READ)
        while not selector.select(POLL_SECONDS):
            if _cpu_seconds(_process.pid) > cpu_end or time.monotonic() > wall_end:
                return None
    return json.loads(_process.stdout.readline())


def _cpu_seconds(pid: int) -> float:
    """Processor time that a process has used; wall time where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _stop() -> None:
    """Kill the worker, if it is this process's own."""
    global _process
    process, _process = _process, None
    if process is None or _owner != os.getpid():
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
