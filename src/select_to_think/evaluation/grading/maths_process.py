"""The parent's side of `maths_worker`: one process, started when first needed, killed when it does not answer in time.

Works from any thread (one question at a time) and after a fork (each process has its own worker).

Non-goals: deciding what is asked.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from select_to_think.structures import S2TError

LIMIT_SECONDS = 10.0  # per question; above the worker's own limits, which end nearly everything first
START_SECONDS = 120.0  # importing sympy on a busy machine

_WORKER = Path(__file__).with_name("maths_worker.py")
_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None
_owner = 0


def equal(gold: str, answer: str) -> bool | None:
    """Whether math-verify takes two LaTeX expressions for the same; None when it did not answer in time.

    Raises:
        S2TError: math-verify is not installed, or the worker does not start.
    """
    global _process
    with _lock:
        if _process is None or _owner != os.getpid() or _process.poll() is not None:
            _start()
        try:
            reply = _ask({"gold": gold, "answer": answer}, LIMIT_SECONDS)
        except (OSError, ValueError):  # it died over the question, for example for want of memory
            reply = None
        if reply is None:
            _stop()
            return None
        return bool(reply["right"])


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
        reply = _ask(None, START_SECONDS)
    except (OSError, ValueError):
        reply = None
    if reply is None or not reply["ready"]:
        _stop()
        raise S2TError("grading mathematics needs math-verify: pip install 'select-to-think[eval]'")


def _ask(question: dict[str, str] | None, seconds: float) -> Any:
    """Send a question (None: only listen) and wait for one line; None when the time is up."""
    assert _process is not None and _process.stdin is not None and _process.stdout is not None
    if question is not None:
        _process.stdin.write(json.dumps(question).encode() + b"\n")
        _process.stdin.flush()
    with selectors.DefaultSelector() as selector:
        selector.register(_process.stdout, selectors.EVENT_READ)
        if not selector.select(seconds):
            return None
    return json.loads(_process.stdout.readline())


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
            try:
                pipe.close()
            except OSError:
                pass
