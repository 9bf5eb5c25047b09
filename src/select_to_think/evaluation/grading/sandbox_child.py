"""The two processes of `sandbox`. Run as a file with `python -I -S`: locks itself in, then takes its role.

`judged` executes the model's program, then calls its function whenever it is asked to (stdin: requests, stdout:
replies). `checker` executes the tests, in which that function is a stub that asks the judged process, and tells the
verdict (stdin: the task, stdout: the verdict). Between them pass lines of JSON that hold plain data and nothing else:
no object of the judged program, so none that equals everything, comes to the tests.

Non-goals: see `sandbox`. This file imports nothing of the package.
"""

from __future__ import annotations

import builtins
import collections
import ctypes
import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import suppress
from importlib import import_module

TYPE_CHECKING = False  # importing typing would be a tenth of the start
if TYPE_CHECKING:
    from typing import IO, Any

MAX_LINE = 1 << 22  # bytes of one reply
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
CAPABILITY_VERSION_3 = 0x20080522
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
ALL_RIGHTS = (1 << 13) - 1  # to files, that every version of Landlock knows; seccomp refuses what later ones add
READ_FILE, READ_DIR = 1 << 2, 1 << 3
SECCOMP_ALLOW, SECCOMP_ERRNO = 0x7FFF0000, 0x00050000
LESS, EQUAL, MASKED_EQUAL = 2, 4, 7
# What one thread needs to compute: no other process, no signal to one, no socket, nothing that changes a file.
SYSTEM_CALLS = """
    access alarm arch_prctl brk capget chdir clock_getres clock_gettime clock_nanosleep close close_range dup dup2 dup3
    epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 exit exit_group faccessat faccessat2 fadvise64 fchdir fstat
    fstatfs futex getcpu getcwd getdents64 getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid
    getpriority getrandom getresgid getresuid getrlimit getrusage getsid gettid gettimeofday getuid lseek lstat madvise
    membarrier mincore mmap mprotect mremap munmap nanosleep newfstatat pipe pipe2 poll ppoll pread64 preadv pselect6
    read readlink readlinkat readv restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn
    rt_sigsuspend rt_sigtimedwait sched_getaffinity sched_getparam sched_getscheduler sched_yield select
    set_robust_list set_tid_address setitimer sigaltstack stat statfs statx sysinfo time times umask uname write writev
"""
WRITE_FLAGS = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
# (system call, which argument, comparison, its values): files are opened to be read; fcntl without F_SETOWN, which
# sends signals, and what Python asks of terminals.
PARTLY_ALLOWED: tuple[tuple[str, int, int, int, int], ...] = (
    ("open", 1, MASKED_EQUAL, WRITE_FLAGS, 0),
    ("openat", 2, MASKED_EQUAL, WRITE_FLAGS, 0),
    ("fcntl", 1, LESS, 5, 0),  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL
    ("fcntl", 1, EQUAL, 1030, 0),  # F_DUPFD_CLOEXEC
    *(("ioctl", 1, EQUAL, request, 0) for request in (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)),
)


class Condition(ctypes.Structure):
    """`struct scmp_arg_cmp` of libseccomp."""

    _fields_ = (("argument", ctypes.c_uint), ("compare", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class PathRule(ctypes.Structure):
    """`struct landlock_path_beneath_attr`."""

    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


class Gone(Exception):
    """The judged process has ended."""


class ReplyTooLong(Exception):
    """The judged process says more than `MAX_LINE` at once."""


class ProgramError(Exception):
    """The judged program raised something of its own, or what nothing here catches."""


class NotPlainData(TypeError):
    """A value that cannot pass between the processes."""


def main() -> None:
    """Take the streams, lock the door, and go to work."""
    settings = json.loads(sys.argv[1])
    source, sink, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    sys.path += settings["packages"]
    lock(settings["limits"], settings["means"], settings["readable"], settings["evaluator"])
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    with os.fdopen(source, "rb") as incoming, os.fdopen(sink, "wb") as outgoing:
        if settings["role"] == "judged":
            send(outgoing, "ready")
            serve(incoming, outgoing)
        else:
            replies, requests = (os.fdopen(fd, mode) for fd, mode in zip(settings["pipes"], ("rb", "wb"), strict=True))
            send(outgoing, verdict(json.loads(incoming.read()), replies, requests))
        os._exit(0)


# -- the lock -----------------------------------------------------------------


def lock(limits: dict[str, int], means: str, readable: Sequence[str], evaluator: int) -> None:
    """Give up, for good, what a program does not need to compute. Raises OSError where the kernel refuses to help."""
    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    if means == "unconfined":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    checked(libc.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()))
    seccomp = ctypes.CDLL("libseccomp.so.2")  # loaded before the files are out of reach
    if means == "landlock":
        if os.getppid() != evaluator:  # it died before its death could be told
            raise ProcessLookupError("the evaluator is gone")
        only_read(libc.syscall, readable)
    only_compute(seccomp)


def checked(result: int) -> int:
    """The result of a system call. Raises OSError for a negative one."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def only_read(syscall: Callable[..., int], readable: Sequence[str]) -> None:
    """Landlock: of all files, only those in `readable` can be opened, and only to be read."""
    rules = checked(syscall(LANDLOCK_CREATE_RULESET, ctypes.byref(ctypes.c_uint64(ALL_RIGHTS)), 8, 0))
    for path in readable:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights = READ_FILE | READ_DIR if stat.S_ISDIR(os.fstat(folder).st_mode) else READ_FILE
        checked(syscall(LANDLOCK_ADD_RULE, rules, 1, ctypes.byref(PathRule(rights, folder)), 0))
        os.close(folder)
    checked(syscall(LANDLOCK_RESTRICT_SELF, rules, 0))
    os.close(rules)


def only_compute(seccomp: Any) -> None:
    """Seccomp: every system call but those above fails with EPERM."""
    seccomp.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(seccomp.seccomp_init(SECCOMP_ERRNO | 1))
    conditions: list[tuple[str, Condition | None]] = [(name, None) for name in SYSTEM_CALLS.split()]
    conditions += [(name, Condition(*condition)) for name, *condition in PARTLY_ALLOWED]
    for name, condition in conditions:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # what this machine or library does not know stays refused
            pointer = None if condition is None else ctypes.byref(condition)
            result = seccomp.seccomp_rule_add_array(rules, SECCOMP_ALLOW, number, int(condition is not None), pointer)
            if result < 0:
                raise OSError(-result, f"seccomp rule for {name}: {os.strerror(-result)}")
    if (result := seccomp.seccomp_load(rules)) < 0:
        raise OSError(-result, f"seccomp: {os.strerror(-result)}")


# -- the roles ----------------------------------------------------------------


def send(stream: IO[bytes], message: Any) -> None:
    """Write one line of JSON."""
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Execute the program, then call its function, as long as there are requests."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    entry = ""
    for line in requests:
        message = json.loads(line)
        try:
            if "program" in message:
                entry = message["entry_point"]
                exec(compile(message["program"], "<program>", "exec"), namespace)
                reply = b'{"value": null}'
            else:
                value = namespace[entry](*unpack(message["args"]), **unpack(message["kwargs"]))
                reply = json.dumps({"value": pack(value)}).encode()
        except BaseException as error:  # whatever a program raises, the tests are told
            reply = json.dumps({"raised": type(error).__name__}).encode()
        replies.write(reply + b"\n")
        replies.flush()


def verdict(task: dict[str, str], replies: IO[bytes], requests: IO[bytes]) -> dict[str, Any]:
    """Run the tests against the judged process; how that ended."""

    def ask(message: dict[str, Any]) -> Any:
        try:
            send(requests, message)
            line = replies.readline(MAX_LINE)
        except OSError:
            raise Gone from None
        if len(line) == MAX_LINE:
            raise ReplyTooLong
        if not line.endswith(b"\n"):
            raise Gone
        reply = json.loads(line)
        if "raised" in reply:
            raise named(str(reply["raised"]))
        return unpack(reply["value"])

    def stub(*args: Any, **kwargs: Any) -> Any:
        """What the tests take for the model's function."""
        return ask({"args": pack(args), "kwargs": pack(kwargs)})

    if replies.readline(MAX_LINE) != b'"ready"\n':
        return {"error": "the judged process did not start"}
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        ask({"program": task["program"], "entry_point": task["entry_point"]})
        exec(compile(task["tests"], "<tests>", "exec"), namespace)
        namespace[task["entry_point"]] = stub
        namespace["check"](stub)
    except BaseException as error:
        return {"passed": False, "reason": "gone" if isinstance(error, Gone) else type(error).__name__[:80]}
    return {"passed": True, "reason": "passed"}


def named(name: str) -> Exception:
    """The exception that the judged program raised; a `ProgramError` for all but the errors that Python defines.

    The end of an iteration would end one of the tests before its time: no such.
    """
    kind = NotPlainData if name == NotPlainData.__name__ else getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        return ProgramError()
    if issubclass(kind, Exception) and not issubclass(kind, StopIteration | StopAsyncIteration):
        with suppress(TypeError):  # raised by those that need arguments
            return kind()
    other: type[Exception] = type(name, (ProgramError,), {})
    return other()


# -- plain data ---------------------------------------------------------------


def pack(value: Any) -> Any:
    """A value as JSON: literals and what equals them, such as a Counter; any other sequence as one that equals no list.

    Raises NotPlainData for what is neither.
    """
    if getattr(value, "shape", None) == ():  # a number of numpy
        value = value.item()
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return ["int", hex(value)]  # decimal digits are limited
    if isinstance(value, bytes | bytearray):
        return ["bytes", value.hex()]
    if isinstance(value, dict):
        return ["dict", [[pack(key), pack(entry)] for key, entry in value.items()]]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if type(value).__name__ in ("Decimal", "Fraction"):
        return [type(value).__name__, str(value)]
    if isinstance(value, Iterable):
        kinds = (kind.__name__ for kind in (list, tuple, set, frozenset) if isinstance(value, kind))
        return [next(kinds, "deque" if isinstance(value, Sized) else "iter"), [pack(entry) for entry in value]]
    raise NotPlainData(type(value).__name__)


def unpack(value: Any) -> Any:
    """What `pack` packed. Raises some exception for anything else."""
    if not isinstance(value, list):
        return value
    kind, content, *rest = value
    if kind in ("list", "tuple", "set", "frozenset", "deque", "iter"):
        maker = collections.deque if kind == "deque" else getattr(builtins, kind)
        return maker([unpack(entry) for entry in content])
    if kind == "dict":
        return {unpack(key): unpack(entry) for key, entry in content}
    if kind == "int":
        return int(content, 16)
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(content, *rest)
    modules = {"Decimal": "decimal", "Fraction": "fractions"}
    return getattr(import_module(modules[kind]), kind)(content)


if __name__ == "__main__":
    main()
