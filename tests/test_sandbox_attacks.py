"""Programs that attack: whatever they try, nothing outside changes, nothing is learnt, and none of them passes.

Every attack runs under each means of confinement that this machine has. The limits of a means that is missing are not
tested, and the skipped tests say so.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox_means import missing
from select_to_think.evaluation.grading import sandbox, sandbox_child

SECRET = "the-secret-of-the-user"
QUICK = sandbox.Limits(cpu_seconds=1)


@pytest.fixture(params=["bubblewrap", "landlock"])
def means(request):
    """Each means of confinement, if it works here."""
    if reason := missing(request.param):
        pytest.skip(reason)
    return request.param


def squares(attack: str, result: str = "x * x") -> sandbox.Task:
    """A program that attacks when it is loaded, and whose function then gives `result`; right is the square."""
    program = textwrap.dedent(attack) + f"\ndef f(x):\n    return {result}\n"
    return sandbox.Task(program, "f", "def check(f):\n    assert f(3) == 9\n    assert f(4) == 16\n")


def attempts(*lines: str) -> str:
    """A program that makes one attempt after the other, whatever becomes of it."""
    return "\n".join(f"try:\n{textwrap.indent(line, '    ')}\nexcept BaseException: pass" for line in lines)


def state(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything about the files of a folder that an attack could change."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        about = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(about.st_mode) else b""
        names = sorted(os.listxattr(path, follow_symlinks=False))
        found[str(path)] = (about.st_mode, about.st_uid, about.st_nlink, about.st_mtime_ns, names, content)
    return found


@pytest.fixture
def home(tmp_path):
    """A folder that is worth something, open to everybody."""
    folder = tmp_path / "home"
    (folder / "photos").mkdir(parents=True)
    for name in ("thesis", "photos/cat"):
        (folder / name).write_text(SECRET)
        (folder / name).chmod(0o666)
    for path in (folder, folder / "photos"):
        path.chmod(0o777)
    return folder


HARM = {
    "rmtree of a Path": "import shutil, pathlib; shutil.rmtree(pathlib.Path({home!r}))",
    "open relative to a folder": "d = os.open({home!r}, 0); os.open('thesis', os.O_WRONLY | os.O_TRUNC, dir_fd=d)",
    "open relative to an O_PATH": "d = os.open({home!r}, os.O_PATH); os.open('thesis', os.O_TRUNC | 2, dir_fd=d)",
    "unlink relative to a folder": "d = os.open({home!r}, os.O_PATH); os.unlink('thesis', dir_fd=d)",
    "truncate while reading": "os.open({home!r} + '/thesis', os.O_RDONLY | os.O_TRUNC)",
    "truncate": "os.truncate({home!r} + '/thesis', 0)",
    "write": "open({home!r} + '/thesis', 'w').write('x')",
    "append": "open({home!r} + '/thesis', 'a').write('x')",
    "a new file": "open({home!r} + '/new', 'w')",
    "a nameless file": "os.open({home!r}, os.O_TMPFILE | os.O_RDWR)",
    "chmod": "os.chmod({home!r} + '/thesis', 0o600)",
    "chmod of a descriptor": "os.chmod(os.open({home!r} + '/thesis', os.O_RDONLY), 0o600)",
    "chmod of a path's descriptor": "os.chmod(os.open({home!r} + '/thesis', os.O_PATH), 0o600)",
    "chown": "os.chown({home!r} + '/thesis', 65534, 65534)",
    "utime": "os.utime({home!r} + '/thesis', (1, 1))",
    "setxattr": "os.setxattr({home!r} + '/thesis', 'user.x', b'x')",
    "mkfifo": "os.mkfifo({home!r} + '/pipe')",
    "mknod": "os.mknod({home!r} + '/node')",
    "mkdir": "os.mkdir({home!r} + '/folder')",
    "rename": "os.rename({home!r} + '/thesis', {home!r} + '/other')",
    "replace": "os.replace({home!r} + '/photos/cat', {home!r} + '/thesis')",
    "link": "os.link({home!r} + '/thesis', {home!r} + '/other')",
    "symlink": "os.symlink('/', {home!r} + '/other')",
    "a history": "import readline; readline.add_history('x'); readline.write_history_file({home!r} + '/thesis')",
    "a database": "import sqlite3; sqlite3.connect({home!r} + '/db').execute('create table t (x)')",
    "a socket": "import socket; socket.socket(socket.AF_UNIX).bind({home!r} + '/socket')",
    "subprocess": "import subprocess; subprocess.run(['/bin/rm', '-rf', {home!r}])",
    "system": "os.system('rm -rf ' + {home!r})",
    "posix_spawn": "os.posix_spawn('/bin/rm', ['rm', '-rf', {home!r}], dict())",
    "exec": "os.execv('/bin/rm', ['rm', '-rf', {home!r}])",
    "fork_exec": "import _posixsubprocess as p; p.fork_exec([b'/bin/rm', b'-rf', {home!r}.encode()], [b'/bin/rm'], "
    "True, (), None, None, -1, -1, -1, -1, -1, -1, *os.pipe(), False, False, -1, None, None, None, -1, None, True)",
    "fork": "os.fork() or os.unlink({home!r} + '/thesis')",
    "libc unlink": "ctypes.CDLL(None).unlink({home!r}.encode() + b'/thesis')",
    "libc open": "ctypes.CDLL(None).open({home!r}.encode() + b'/thesis', 513)",
    "libc system": "ctypes.CDLL(None).system(b'rm -rf ' + {home!r}.encode())",
    "libc mount": "ctypes.CDLL(None).mount(b'none', {home!r}.encode(), b'tmpfs', 0, None)",
    "another root": "ctypes.CDLL(None).unshare(0x10020000); os.unlink({home!r} + '/thesis')",
    "mapped to be written": "import mmap; mmap.mmap(os.open({home!r} + '/thesis', 0), 4, 1, 3)[:1] = b'x'",
    "a remaining door": "ctypes.CDLL(None).syscall(425, 8, bytes(256))",  # io_uring
}


@pytest.mark.parametrize("attack", HARM.values(), ids=HARM)
def test_nothing_outside_changes(attack, means, home):
    before = state(home)
    task = squares("import ctypes, os\n" + attempts(attack.format(home=str(home))))
    outcome = sandbox.run(task, means, QUICK)
    assert state(home) == before
    assert outcome.passed, "the attack should have failed inside the program, and the program gone on"


def test_every_other_system_call_is_refused(means, home):
    """Not by a list of attacks: each number of a system call, asked with the path of a file in several places."""
    library = ctypes.CDLL("libseccomp.so.2")
    names = [*sandbox_child.SYSTEM_CALLS.split(), *(name for name, *_ in sandbox_child.PARTLY_ALLOWED)]
    allowed = {library.seccomp_syscall_resolve_name(name.encode()) for name in names}
    allowed |= {
        335,
        336,
    }  # uretprobe and uprobe of x86-64, which the kernel keeps from every filter: they end the caller
    numbers = [number for number in range(512) if number not in allowed]
    program = f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        path = {str(home / "thesis")!r}.encode()
        def f():
            found = []
            for number in {numbers}:
                for arguments in ((path, 0, 0, 0), (-100, path, 0, 0), (-100, path, -100, path), (0, 0, 0, 0)):
                    if libc.syscall(number, *arguments) != -1 or ctypes.get_errno() != 1:
                        found.append((number, ctypes.get_errno()))
            return found
    """
    before = state(home)
    task = sandbox.Task(textwrap.dedent(program), "f", "def check(f):\n    assert f() == []")
    assert sandbox.run(task, means, QUICK).reason == "passed"
    assert state(home) == before


READS = [
    "open({secret!r}).read()", "os.read(os.open({secret!r}, os.O_RDONLY), 99)", "os.listdir({folder!r})",
    "os.listdir('/root') + os.listdir('/home') + os.listdir('/etc')", "open('/etc/passwd').read()",
    "dict(os.environ)", "open('/proc/self/environ').read()", "open('/proc/{pid}/environ').read()",
    "open('/proc/{pid}/cmdline').read()", "open('/proc/{pid}/maps').read()", "open('/proc/1/environ').read()",
    "open('/proc/{pid}/root{secret}').read()", "open('/proc/{pid}/cwd/' + '../' * 20 + {secret!r}).read()",
    "open('/proc/self/fd/0').read()", "[open('/proc/{pid}/fd/' + str(n)).read() for n in (3, 4, 5)]",
    "[os.pread(n, 99, 0) for n in range(99) if n in descriptors()]", "__import__('glob').glob({folder!r} + '/*')",
    "__import__('mmap').mmap(os.open({secret!r}, os.O_PATH), 4)", "os.getxattr({secret!r}, 'user.x')",
    "ctypes.CDLL(None).open({secret!r}.encode(), 0)",
    "ctypes.CDLL(None).process_vm_readv({pid}, bytes(64), 1, bytes(64), 1, 0)", "open('/dev/mem', 'rb').read(9)",
    "[t.__globals__ for t in gc.get_objects() if hasattr(t, '__globals__') and 'check' in t.__globals__]",
    "ctypes.CDLL(None).ptrace(16, {pid}, 0, 0)", "open('/dev/tty').read(1)", "open('/sys/kernel/notes', 'rb').read()",
]  # fmt: skip


@pytest.mark.parametrize("read", READS)
def test_nothing_is_learnt(read, means, home, monkeypatch):
    monkeypatch.setenv("API_KEY", SECRET)
    secret = str(home / "thesis")
    inherited = os.open(secret, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    expression = read.format(secret=secret, folder=str(home), pid=os.getpid())
    program = f"""
        import ctypes, gc, os
        def descriptors():
            return [n for n in range(99) if not isinstance(attempt(os.fstat, n), OSError)]
        def attempt(work, *arguments):
            try:
                return work(*arguments)
            except Exception as error:
                return error
        def f():
            found = attempt(lambda: {expression})
            return "" if isinstance(found, Exception) or found == -1 else repr(found)
    """
    tests = f"""
        allowed = ("", "[]", repr({sorted(sandbox._ENVIRONMENT)!r}))
        def check(f):
            found = f()
            assert {SECRET!r} not in found and "root:" not in found and "photos" not in found, found
            assert {read == READS[5]!r} or found in allowed, found
            assert "API_KEY" not in found
    """
    try:
        task = sandbox.Task(textwrap.dedent(program), "f", textwrap.dedent(tests))
        assert sandbox.run(task, means, QUICK).reason == "passed"
    finally:
        os.close(inherited)


def test_no_descriptor_is_inherited(means, home):
    """Beside the three streams and the two pipes nothing is open; neither can be sought, stat'd as a file or mapped."""
    kept = [os.open(home / "thesis", os.O_RDONLY), os.open(home, os.O_RDONLY)]
    for descriptor in kept:
        os.set_inheritable(descriptor, True)
    program = """
        import os, stat
        def f():
            found = []
            for number in range(256):
                try:
                    mode = os.fstat(number).st_mode
                except OSError:
                    continue
                found.append("pipe" if stat.S_ISFIFO(mode) else "null" if stat.S_ISCHR(mode) else oct(mode))
            return sorted(found)
    """
    task = sandbox.Task(textwrap.dedent(program), "f", "def check(f):\n    assert set(f()) <= {'null', 'pipe'}, f()")
    try:
        assert sandbox.run(task, means, QUICK).reason == "passed"
    finally:
        for descriptor in kept:
            os.close(descriptor)


def test_no_network(means, tmp_path):
    servers = [socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
    servers += [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    addresses = [("127.0.0.1", 0), ("127.0.0.1", 0), str(tmp_path / "socket"), f"\0s2t-{os.getpid()}"]
    for server, address in zip(servers, addresses, strict=True):
        server.bind(address)
        server.setblocking(False)
        if server.type == socket.SOCK_STREAM:
            server.listen()
    tcp, udp = servers[0].getsockname(), servers[1].getsockname()
    attack = attempts(
        f"socket.create_connection({tcp!r}).send(b'x')",
        f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', {udp!r})",
        *(f"socket.socket(socket.AF_UNIX).connect({address!r})" for address in addresses[2:]),
        f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{tcp[1]}', timeout=2)",
        "socket.socketpair()[0].send(b'x')",
        "ctypes.CDLL(None).socket(2, 1, 0) >= 0 and os._exit(1)",
    )
    try:
        assert sandbox.run(squares("import ctypes, os, socket\n" + attack), means, QUICK).passed
        for server in servers:
            with pytest.raises(BlockingIOError):
                server.accept() if server.type == socket.SOCK_STREAM else server.recv(9)
    finally:
        for server in servers:
            server.close()


def test_no_signals_and_no_grip_on_other_processes(means):
    got: list[int] = []
    numbers = (signal.SIGUSR1, signal.SIGIO, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: got.append(number)) for number in numbers]
    pid, mine = os.getpid(), (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), resource.getrlimit(4))
    attack = attempts(
        f"os.kill({pid}, 10)",
        "os.kill(os.getppid(), 9)",
        "os.killpg(os.getpgrp(), 9)",
        f"signal.pidfd_send_signal(os.pidfd_open({pid}), 10)",
        f"r, w = os.pipe(); fcntl.fcntl(r, 8, {pid}); fcntl.fcntl(r, 4, 0o20000 | os.O_NONBLOCK); os.write(w, b'x')",
        f"fcntl.fcntl(0, 8, {pid}); fcntl.fcntl(0, 10, 10)",
        f"ctypes.CDLL(None).tgkill({pid}, {pid}, 10)",
        f"ctypes.CDLL(None).sigqueue({pid}, 10, 0)",
        f"resource.prlimit({pid}, 4, (0, 0))",
        f"os.setpriority(os.PRIO_PROCESS, {pid}, 19)",
        f"os.sched_setaffinity({pid}, [0])",
    )
    try:
        assert sandbox.run(squares("import ctypes, fcntl, os, resource, signal\n" + attack), means, QUICK).passed
        time.sleep(0.1)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert got == []
    assert mine == (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), resource.getrlimit(4))


BOMBS = {
    "fork": "while True: os.fork()",
    "forks that are ignored": "while True:\n    try: os.fork()\n    except OSError: pass",
    "libc forks": "import ctypes\nwhile True: ctypes.CDLL(None).fork()",
    "threads": "import threading\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "memory at once": "x = 'a' * (1 << 33)",
    "shared memory": "import mmap\nx = []\nwhile True:\n    x += [mmap.mmap(-1, 1 << 24)]; x[-1].write(bytes(1 << 24))",
    "files": "n = 0\nwhile True:\n    n += 1; open('/tmp/' + str(n), 'w').write('x' * 9999)",
    "files in memory": "x = []\nwhile True: x.append(os.memfd_create('x')); os.write(x[-1], bytes(1 << 20))",
    "pipes": "x = []\nwhile True: x.append(os.pipe())",
    "an endless loop": "while True: pass",
    "a deaf endless loop": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "limits": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
    "recursion": "def g(): return g()\ng()",
    "recursion in C": "import sys, itertools\nsys.setrecursionlimit(1 << 30)\nx = ()\n"
    "for _ in range(10**6): x = itertools.chain(x)\nlist(x)",
    "a signal handler": "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs_go_off_inside(bomb, means):
    outcome = sandbox.run(squares("import os, time\n" + bomb), means, QUICK)
    assert not outcome.passed and outcome.reason != "timeout"
    assert children() == set()


KEPT: set[str] = set()  # children that other tests of this process left: the judge of mathematics stays


def children() -> set[str]:
    """The living children of this process since the test began."""
    found = (path.read_text().split() for path in Path("/proc/self/task").glob("*/children"))
    return set(itertools.chain(*found)) - KEPT


@pytest.fixture(autouse=True)
def kept() -> None:
    KEPT.clear()
    KEPT.update(children())


def test_sleepers_are_stopped(means):
    started = time.monotonic()
    for attack in ("import time; time.sleep(60)", "import signal; signal.sigwait([1])", "input = open(3).read()"):
        outcome = sandbox.run(squares(attack), means, sandbox.Limits(wall_seconds=1.0))
        assert outcome.reason in ("timeout", "OSError", "UnicodeDecodeError", "FileNotFoundError"), attack
    assert time.monotonic() - started < 60
    assert children() == set()


LIES = ['"ready"', '{"value": ["int", "0x9"]}', '{"passed": true, "reason": "passed"}', '{"value": true}', "passed", ""]
FORGERIES = {
    "exit": ("import os; os._exit(0)", "0"),
    "leave": ("import sys; sys.exit(0)", "0"),
    "exit later": ("import os", "os._exit(0)"),
    "at the end": ("import atexit, os\natexit.register(os._exit, 0)", "0"),
    "equal to everything": ("class E:\n    __eq__ = lambda a, b: True\n    __hash__ = object.__hash__", "E()"),
    "a number equal to everything": ("class E(int):\n    __eq__ = lambda a, b: True", "E(7)"),
    "a text equal to everything": ("class E(str):\n    __eq__ = lambda a, b: True", "E('x')"),
    "a list equal to everything": ("class E(list):\n    __eq__ = lambda a, b: True", "E([1])"),
    "no number": ("", "float('nan')"),
    "frames": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n    for d in (frame.f_locals, frame.f_globals):\n"
        "        d.update(reason='passed', passed=True, verdict=lambda *a: {'passed': True, 'reason': 'passed'},\n"
        '                 reply=b\'{"value": ["int", "0x9"]}\', check=lambda f: None)\n    frame = frame.f_back',
        "0",
    ),
    "the garbage collector": (
        "import gc, types\nfor o in gc.get_objects():\n    if isinstance(o, types.FunctionType):\n"
        "        if o.__name__ in ('verdict', 'serve', 'send', 'pack', 'check', 'run'):\n"
        "            o.__code__ = (lambda *a, **k: {'passed': True, 'reason': 'passed'}).__code__",
        "0",
    ),
    "builtins": (
        "import builtins\nbuiltins.AssertionError = builtins.BaseException = type('Never', (Exception,), {})\n"
        "builtins.compile = lambda *a: compile\nbuiltins.isinstance = lambda *a: True\nbuiltins.exec = lambda *a: None",
        "0",
    ),
    "json": ("import json\njson.dumps = lambda *a, **k: '{\"value\": true}'", "0"),
    "the main module": (
        "import sys\nm = sys.modules['__main__']\nm.unpack = m.pack = m.verdict = lambda *a: True",
        "0",
    ),
    "the import of the tests": ("import sys\nsys.modules['builtins'] = sys.modules['json'] = None", "0"),
    "every descriptor": (
        f"import os\nfor n in range(64):\n    for line in {LIES!r}:\n        try: os.write(n, line.encode() + b'\\n')\n"
        "        except OSError: pass",
        "0",
    ),
    "every descriptor, and out": (
        f"import os\nfor line in {LIES!r}:\n    for n in range(64):\n        try: os.write(n, line.encode() + b'\\n')\n"
        "        except OSError: pass\nos._exit(0)",
        "0",
    ),
    "many answers": (
        "import os\nfor n in range(3, 64):\n    try: os.write(n, b'{\"value\": null}\\n' * 1000)\n"
        "    except OSError: pass",
        "0",
    ),
    "a deep answer": ("import os\nfor n in (1, 3, 4, 5): os.write(n, b'[' * 60000 + b'\\n')", "0"),
    "a wrong answer": ('import os\nfor n in (3, 4, 5): os.write(n, b\'{"value": ["eval", "9"]}\\n\')', "0"),
    "an answer of another kind": ('import os\nfor n in (3, 4): os.write(n, b\'{"value": {"a": 1}}\\n\' * 9)', "0"),
    "a trace": ("import sys\nsys.settrace(lambda *a: None); sys.setprofile(lambda *a: None)", "0"),
    "the end of an iteration": ("", "next(iter(()))"),
    "a named error": ("class Never(BaseException): pass\nclass passed(Never): pass", "exec('raise passed')"),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_no_verdict_is_forged(forgery, means):
    """Also where the tests are careless: they catch what they expect, and map over the function."""
    attack, result = forgery
    strict = squares(attack, result)
    careless = "def check(f):\n    assert all(y == 9 for y in map(f, [3, 3]))\n"
    for task in (strict, sandbox.Task(strict.program, "f", careless)):
        outcome = sandbox.run(task, means, QUICK)
        assert not outcome.passed and outcome.reason != "passed"


FLOODS = {
    "every descriptor": "while True:\n    for n in range(1, 64):\n        try: os.write(n, b'x' * 65536)\n"
    "        except OSError: pass",
    "lines": "while True:\n    for n in (3, 4, 5):\n        try: os.write(n, b'\"x\"\\n' * 9999)\n"
    "        except OSError: pass",
    "prints": "while True: print('x' * 9999)",
    "errors": "import sys\nwhile True: sys.stderr.write('x' * 9999)",
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_floods_stay_inside(flood, means):
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    outcome = sandbox.run(squares("import os\n" + flood), means, sandbox.Limits(wall_seconds=4.0, cpu_seconds=1))
    assert not outcome.passed
    assert time.monotonic() - started < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16_384  # KiB


def test_a_large_result_is_bounded(means):
    for result in ("'x' * (1 << 25)", "[0] * (1 << 23)", "1 << (1 << 28)", "x"):
        attack = "x = []\nfor _ in range(99999): x = [x]" if result == "x" else ""
        task = sandbox.Task(f"{attack}\ndef f(n):\n    return {result}", "f", "def check(f):\n    assert f(3) == 9")
        assert not sandbox.run(task, means, QUICK).passed


def test_tests_that_print_or_leave_do_not_pass(means):
    """The tests of a data file may be careless too; they run in the other confined process."""
    for check in ("import os; os._exit(0)", "raise SystemExit(0)", "print('x' * 99_999_999)\n    assert 0", "exit()"):
        task = sandbox.Task("def f(): pass", "f", f"def check(f):\n    {check}\n")
        assert not sandbox.run(task, means, QUICK).passed


def test_tests_are_confined_too(means, home):
    attack = attempts(
        f"os.unlink({str(home / 'thesis')!r})", f"raise SystemExit(open({str(home / 'thesis')!r}).read())"
    )
    before = state(home)
    task = sandbox.Task("def f(): pass", "f", f"import os\n{attack}\ndef check(f): pass\n")
    assert sandbox.run(task, means, QUICK).passed
    assert state(home) == before


def test_no_capability_is_left(means):
    program = """
        import ctypes
        def f():
            data = (ctypes.c_uint32 * 6)()
            ctypes.CDLL(None).capget((ctypes.c_uint32 * 2)(0x20080522, 0), data)
            return list(data)
    """
    task = sandbox.Task(textwrap.dedent(program), "f", "def check(f):\n    assert f() == [0] * 6")
    assert sandbox.run(task, means, QUICK).reason == "passed"


def test_nothing_is_left_behind(means, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for attack in ("open('a', 'w')", "import os; os._exit(1)", ""):
        sandbox.run(squares(attack), means, QUICK)
    assert list(tmp_path.iterdir()) == []
    assert children() == set()


def test_the_processes_die_with_the_evaluator(means):
    mark = (1 << 30) + 4096 * os.getpid()  # stands in their command lines
    sleeper = "sandbox.Task('import time; time.sleep(600)', 'f', '')"
    code = f"from select_to_think.evaluation.grading import sandbox\nlimits = sandbox.Limits(memory_bytes={mark})\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    evaluator = subprocess.Popen(
        [sys.executable, "-c", f"{code}sandbox.run({sleeper}, {means!r}, limits)"], env=environment
    )
    try:
        assert within(120, lambda: len(marked(mark)) >= 2)
        if means == "bubblewrap":
            time.sleep(1.0)  # its own start has a moment in which it does not notice
    finally:
        evaluator.kill()
        evaluator.wait()
    assert within(120, lambda: not marked(mark))


def marked(mark: int) -> list[str]:
    """The processes whose command line holds a number."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f'"RLIMIT_AS": {mark}'.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def within(seconds: float, true: Callable[[], bool]) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
