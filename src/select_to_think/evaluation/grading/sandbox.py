"""Run a model's program where it can do little harm: own session, hard limits, no network, a folder that disappears.

The child (`sandbox_child`) limits itself before it reads the program: CPU seconds, memory, file size, open files, no
new processes; an empty network namespace where the kernel allows it, and in any case an audit hook that refuses
sockets, processes, foreign functions and writing outside the folder. Run by root it becomes nobody first, or, where
nobody could not read Python's library, loses every capability. The parent kills the whole process group when the wall
time is over.

Non-goals: holding a program that attacks the interpreter itself. For models you distrust that much, use a container.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

_CHILD = Path(__file__).with_name("sandbox_child.py")
_REPLY_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use. Processor time decides: a busy machine fails nothing; wall time stops sleepers."""

    wall_seconds: float = 60.0
    cpu_seconds: int = 10
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    open_files: int = 32


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: `passed` when it ran to its last line, else why not; and how the network was cut off."""

    passed: bool
    reason: str  # "passed", an exception's name, "timeout", "killed" or "exited" (before its end)
    network: str  # "namespace" (an empty one) or "audit-hook"


def run(program: str, limits: Limits | None = None) -> Outcome:
    """Run a Python program to its end.

    The program's own exit code means nothing: only the child that comes back from the last line knows the word that it
    was given at the start, so `sys.exit(0)` before the tests does not pass them.
    """
    limits = limits or Limits()
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="s2t-code-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o777)  # nobody writes here where root started us
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        )
        task = json.dumps({"word": word, "program": program, "limits": asdict(limits), "folder": folder})
        try:
            out, _ = process.communicate(task.encode("utf-8", "surrogatepass"), timeout=limits.wall_seconds)
        except subprocess.TimeoutExpired:
            _kill(process)
            return Outcome(False, "timeout", "unknown")
        finally:
            _kill(process)
    return _outcome(out[-_REPLY_BYTES:], word, process.returncode)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process group, and reap the child."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.communicate()


def _outcome(reply: bytes, word: str, returncode: int) -> Outcome:
    """Read the child's one line."""
    try:
        last = json.loads(reply.decode().strip().splitlines()[-1])
        network, reason = str(last["network"]), str(last["reason"])
        passed = last.get("word") == word and reason == "passed"
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        return Outcome(False, "killed" if returncode < 0 else "exited", "unknown")
    return Outcome(passed, reason if passed or reason != "passed" else "exited", network)
