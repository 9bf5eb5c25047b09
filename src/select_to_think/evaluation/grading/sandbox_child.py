"""The child side of `sandbox`: limits itself, then runs the program that comes on stdin. Run as a file, with `-I`.

Non-goals: see `sandbox`. This file imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import sys
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
NOBODY = 65534
CAPABILITY_VERSION_3 = 0x20080522
REFUSED = (
    "socket.", "subprocess.", "ctypes.", "pty.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn",
    "os.kill", "os.setxattr", "signal.pthread_kill", "urllib.", "ftplib.", "smtplib.", "sqlite3.", "webbrowser.",
    "resource.", "code.__new__", "sys._current_frames", "gc.get_objects", "gc.get_referrers",
)  # fmt: skip
WRITES = (
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate",
    "os.utime", "os.chflags", "os.lchown", "os.mkfifo", "os.mknod", "shutil.rmtree", "shutil.move",
)  # fmt: skip
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    """Read the task, shut the doors, run, and say how it ended on the true stdout."""
    task = json.loads(sys.stdin.buffer.read().decode("utf-8", "surrogatepass"))
    word, program, folder = task["word"], task["program"], os.path.realpath(task["folder"])
    reply = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    network = cut_network()
    set_limits(task["limits"])
    give_up_rights()
    sys.addaudithook(guard(folder))
    reason = run(program)
    answer = {"reason": reason, "network": network, "word": word}
    os.write(reply, (json.dumps(answer) + "\n").encode())
    os._exit(0)  # threads and exit handlers of the program have no say


def run(program: str) -> str:
    """Execute the program as `__main__`; the name of what it raised, or "passed"."""
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    except SystemExit:
        return "exited"
    except BaseException as error:  # whatever a program raises, the parent wants its name
        return type(error).__name__[:80]
    return "passed"


def cut_network() -> str:
    """Move into an empty network namespace; where the kernel refuses, the audit hook alone refuses sockets."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET):
            if libc.unshare(flags) == 0:
                return "namespace"
    return "audit-hook"


def give_up_rights() -> None:
    """Root becomes nobody, if nobody can read the interpreter's library; whoever is left drops every capability."""
    if os.geteuid() == 0 and _library_is_public():
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
    with contextlib.suppress(OSError, AttributeError):
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())


def _library_is_public() -> bool:
    """Whether every folder down to the standard library may be entered by others."""
    path = os.path.realpath(os.path.dirname(os.__file__))
    while path != os.path.dirname(path):
        if not os.stat(path).st_mode & 0o001:
            return False
        path = os.path.dirname(path)
    return True


def set_limits(limits: dict[str, Any]) -> None:
    """Soft and hard limits, so that they cannot be raised again."""
    wanted = {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for name, value in wanted.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def guard(folder: str) -> Any:
    """The audit hook; it cannot be removed again."""

    def inside(path: object) -> bool:
        """Whether a path lies in the program's folder."""
        if not isinstance(path, str | bytes | os.PathLike):
            return isinstance(path, int)  # a descriptor that is already open
        return (os.path.realpath(os.fsdecode(path)) + os.sep).startswith(folder + os.sep)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        """Refuse what a solution never needs."""
        if event.startswith(REFUSED):
            raise PermissionError(f"{event} is refused in the sandbox")
        if event == "open":
            path, mode, flags = arguments
            writes = flags & WRITE_FLAGS if isinstance(flags, int) else any(c in str(mode) for c in "wax+")
            if writes and not inside(path):
                raise PermissionError("writing outside the folder is refused in the sandbox")
        elif event.startswith(WRITES) and not all(inside(part) for part in arguments if isinstance(part, str | bytes)):
            raise PermissionError(f"{event} outside the folder is refused in the sandbox")

    return hook


if __name__ == "__main__":
    main()
