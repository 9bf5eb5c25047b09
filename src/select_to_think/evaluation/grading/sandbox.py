"""Run a model's program where it can do no harm, and let its tests, in another process, say whether it is right.

Two processes for each program (`sandbox_child`): one executes it and calls its function, the other holds the tests and
asks the first for results, as plain data. So the program knows neither the tests nor the verdict, and can be right in
no other way than by right results. Both are confined by the kernel: they can read Python and its libraries, write
nothing, start nothing, signal nobody and reach no network, within hard limits. The means are `bubblewrap` (namespaces
with a root of their own) or else Landlock; with either, seccomp leaves the system calls that computing needs. A means
counts once it has withstood the attacks of `_PROBE` on this machine.

Non-goals: holding out against defects of the kernel; telling a program that computes from one that has learnt the
published tests by heart.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from select_to_think.config import CodeExecution
from select_to_think.structures import S2TError

Means = Literal["bubblewrap", "landlock", "unconfined"]

_CONFINING: tuple[Means, ...] = ("bubblewrap", "landlock")  # the better one first
_CHILD = Path(__file__).with_name("sandbox_child.py")
_VERDICT_BYTES = 4_096
_SIGNALLED = 128  # exit codes of bubblewrap above this: the signal that ended what it ran
_BUBBLEWRAP = (
    *("--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--die-with-parent", "--new-session"),
    *("--dev-bind", "/dev/null", "/dev/null"),
)
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # no threads can be started


@dataclass(frozen=True, slots=True)
class Limits:
    """What each process may use. Processor time decides: a busy machine fails nothing; wall time stops sleepers."""

    wall_seconds: float = 60.0
    cpu_seconds: int = 10
    memory_bytes: int = 1 << 30
    open_files: int = 32

    def for_child(self) -> dict[str, int]:
        """By the names that the kernel gives them; no file can grow."""
        wanted = {"CPU": self.cpu_seconds, "AS": self.memory_bytes, "NOFILE": self.open_files}
        return {f"RLIMIT_{name}": value for name, value in (wanted | {"FSIZE": 0, "NPROC": 0, "CORE": 0}).items()}


@dataclass(frozen=True, slots=True)
class Task:
    """A program that defines `entry_point`, and tests that define `check(candidate)`; both are Python source."""

    program: str
    entry_point: str
    tests: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: `passed` when `check` came to its end, else why not."""

    passed: bool
    reason: str  # "passed", the name of what was raised, "timeout", "killed" (a limit, a crash) or "exited" (too early)


_LIMITS = Limits()
# What must not succeed where a program is confined; asked of a file that exists and may be written.
_PROBE = Task(
    """
import os, socket

def escapes(path):
    attempts = {
        "reads": lambda: open("/etc/passwd"),
        "writes": lambda: open(path, "w"),
        "deletes": lambda: os.remove(path),
        "starts processes": lambda: os.fork() or os._exit(0),
        "opens sockets": socket.socket,
        "sends signals": lambda: os.kill(os.getppid() or 1, 0),
    }
    found = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError:
            continue
        found.append(name)
    return found
""",
    "escapes",
    "def check(escapes):\n    assert escapes({path!r}) == []\n",
)


def means_for(execution: CodeExecution | None) -> Means:
    """How programs are confined here; found out once.

    Raises:
        S2TError: without permission (None), or where nothing confines them.
    """
    if execution is None:
        raise S2TError("grading these items runs code that a model wrote; allow it with --allow-code-execution")
    if execution == "unconfined":
        return "unconfined"
    means, refusals = _probed()
    if means is None:
        raise S2TError(
            f"nothing here can confine the model's code ({'; '.join(refusals)}). Install bubblewrap and libseccomp "
            "(Linux), or, in a container of your own that holds nothing you would miss, take "
            "--allow-code-execution=unconfined"
        )
    return means


@cache
def _probed() -> tuple[Means | None, tuple[str, ...]]:
    """The first means that withstands `_PROBE`, and why those before it do not."""
    refusals: list[str] = []
    if not sys.platform.startswith("linux"):
        return None, ("this is not Linux",)
    for means in _CONFINING:
        if means == "bubblewrap" and shutil.which("bwrap") is None:
            refusals.append("bubblewrap: not installed")
            continue
        with tempfile.NamedTemporaryFile(prefix="s2t-probe-") as file:
            task = Task(_PROBE.program, _PROBE.entry_point, _PROBE.tests.format(path=file.name))
            try:
                outcome = run(task, means)
            except S2TError as error:
                refusals.append(str(error))
                continue
        if outcome.passed:
            return means, tuple(refusals)
        refusals.append(f"{means}: a trial program was not held ({outcome.reason})")
    return None, tuple(refusals)


def run(task: Task, means: Means, limits: Limits = _LIMITS) -> Outcome:
    """Run the program of a task against its tests.

    Raises:
        S2TError: the processes could not be started under these means.
    """
    deadline = time.monotonic() + limits.wall_seconds
    with tempfile.TemporaryFile() as file, ExitStack() as running:
        file.write(json.dumps(asdict(task)).encode())
        file.seek(0)
        pipes = asked, ask, reply, replied = (*os.pipe(), *os.pipe())
        try:
            judged = _start("judged", means, limits, (), stdin=asked, stdout=replied, stderr=subprocess.DEVNULL)
            running.callback(_end, judged)
            told: dict[str, Any] = {"stdin": file, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            checker = _start("checker", means, limits, (reply, ask), **told)
            running.callback(_end, checker)
        finally:
            for descriptor in pipes:
                os.close(descriptor)
        said = _read(checker, deadline)
        if said is None:
            return Outcome(False, "timeout")
        if not said:
            return Outcome(False, "killed")
        verdict = _verdict(said, means)
        if verdict.reason == "gone":
            with suppress(subprocess.TimeoutExpired):  # one that lives on has closed its streams
                judged.wait(1.0)
            code = judged.returncode or 0
            return Outcome(False, "killed" if code < 0 or code > _SIGNALLED else "exited")
        return verdict


def _start(role: str, means: Means, limits: Limits, pipes: Sequence[int], **streams: Any) -> subprocess.Popen[bytes]:
    """Start one of the two processes; it keeps the descriptors `pipes`."""
    readable = _readable()
    settings: dict[str, Any] = {"role": role, "means": means, "limits": limits.for_child(), "pipes": pipes}
    settings |= {"readable": readable, "packages": _packages(), "evaluator": os.getpid()}
    command = [os.path.realpath(sys.executable), "-I", "-S", "-B", str(_CHILD), json.dumps(settings)]
    if means == "bubblewrap":
        binds = [part for path in readable for part in ("--ro-bind", path, path)]
        command = [shutil.which("bwrap") or "bwrap", *_BUBBLEWRAP, *binds, "--remount-ro", "/", "--", *command]
    return subprocess.Popen(command, cwd="/", env=_ENVIRONMENT, start_new_session=True, pass_fds=pipes, **streams)


@cache
def _readable() -> list[str]:
    """The files and folders that Python needs: itself, its library and packages, shared libraries."""
    python = Path(sys.executable).resolve()
    prefixes = dict.fromkeys((sys.prefix, sys.base_prefix, str(python.parents[1]), "/usr", "/usr/local", "/"))
    paths = [os.path.join(prefix, name) for prefix in prefixes for name in ("lib", "lib64")]
    paths += [*_packages(), str(python), str(_CHILD), "/etc/ld.so.cache", "/nix/store"]
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)]


def _packages() -> list[str]:
    """The folders of installed packages."""
    return [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]


def _read(process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """What a process says until it ends, or as much as a verdict may have; None if it is still busy at the deadline."""
    said = b""
    with selectors.DefaultSelector() as selector:
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(said) < _VERDICT_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            piece = os.read(process.stdout.fileno(), _VERDICT_BYTES)
            if not piece:
                break
            said += piece
    return said


def _verdict(said: bytes, means: Means) -> Outcome:
    """Read the checker's one line. Raises S2TError for anything else: then it did not come to its work."""
    try:
        return Outcome(**json.loads(said))
    except (ValueError, TypeError):
        lines = said.decode(errors="replace").strip().splitlines()
        raise S2TError(f"{means} does not work here: {lines[-1] if lines else 'no answer'}") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its group, and reap it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.communicate()
