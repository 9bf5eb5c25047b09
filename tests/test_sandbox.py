"""Programs: found in texts, run in the sandbox, and kept from doing harm there."""

from __future__ import annotations

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_means import MEANS, needs_confinement, needs_landlock
from select_to_think.cli import app
from select_to_think.evaluation.grading import extract, grade, sandbox, sandbox_child
from select_to_think.structures import S2TError

PACK = Path(os.environ.get("S2T_BENCH_DATA", Path(__file__).parents[2] / "shared" / "data" / "bench"))
PROMPT = 'import math\n\n\ndef area(r):\n    """Area of a disc."""\n'
META = {"entry_point": "area", "prompt": PROMPT, "test": "def check(f):\n    assert abs(f(2) - 12.566370614) < 1e-6\n"}
QUICK = sandbox.Limits(cpu_seconds=2)

RIGHT = [
    "    return math.pi * r * r\n",
    "return math.pi * r * r",
    "    return math.pi * r * r\n\n\nprint(area(3))\n",
    "```python\ndef area(r):\n    return 3.14159265358979 * r ** 2\n```",
    "Here it is:\n\n```python\nimport math\n\ndef area(r):\n    return math.pi * r ** 2\n```\n\nIt squares `r`.",
    "```python\n    return math.pi * r ** 2\n```",
    "Try:\n```python\ndef area(r):\n    return r\n```\nBetter:\n```py\ndef area(r):\n    return math.pi * r * r\n```",
    "def area(r):\n    return math.pi * r * r\n\nThis is the area of a disc.",
    "Sure! Here is the code:\nimport math\ndef area(r):\n    x = r * r\n    return math.pi * x",
    "```\ndef helper(r):\n    return r * r\n\ndef area(r):\n    return math.pi * helper(r)\n```",
    "<think>def area(r): return 0</think>```python\ndef area(r):\n    return math.pi * r * r",
]  # fmt: skip
WRONG = [
    "    return math.pi * r\n", "", "I cannot write that.", "```python\ndef area(r:\n```", "    return math.pi *",
    "```python\ndef volume(r):\n    return math.pi * r * r\n```", "    exit(0)\n", "    import os\n    os._exit(0)\n",
    "    raise SystemExit(0)", "import sys\nsys.exit(0)",
]  # fmt: skip


@needs_confinement
@pytest.mark.parametrize("text", RIGHT)
def test_right_programs(text):
    verdict = grade(text, "", "code", meta=META, allow_code_execution="confined")
    assert verdict.right, verdict


@needs_confinement
@pytest.mark.parametrize("text", WRONG)
def test_wrong_programs(text):
    assert not grade(text, "", "code", meta=META, allow_code_execution="confined").right


@needs_confinement
def test_code_is_refused_without_permission():
    with pytest.raises(S2TError, match="--allow-code-execution"):
        grade(RIGHT[0], "", "code", meta=META)
    with pytest.raises(S2TError, match=r"meta\.test"):
        grade(RIGHT[0], "", "code", meta={"entry_point": "area"}, allow_code_execution="confined")


@needs_confinement
def test_the_rule_says_how_the_program_ended():
    verdict = grade("    return 1 / 0\n", "", "code", meta=META, allow_code_execution="confined")
    assert verdict.rule == "code:body:ZeroDivisionError"
    assert extract(RIGHT[3], "code", meta=META).rule == "fenced-function"


USEFUL = [
    "import collections, dataclasses, decimal, fractions, functools, heapq, itertools, math, random, re, statistics",
    "import string, typing, unittest, hashlib, datetime, threading, asyncio, bisect, copy, enum, operator, json, sympy",
    "import numpy; assert numpy.linalg.det(numpy.eye(3)) == 1.0", "print('x' * 100_000)", "assert input",
    "import os; assert set(os.environ) <= {*ENVIRONMENT, 'LC_CTYPE', 'PWD'}, os.environ",
    "import signal; signal.alarm(5); signal.signal(signal.SIGALRM, lambda *a: None)", "import time; time.sleep(0.01)",
    "import sys; sys.setrecursionlimit(10_000)\ndef g(n): return n and g(n - 1)\ng(5_000)",
]  # fmt: skip


@needs_confinement
@pytest.mark.parametrize("program", USEFUL)
def test_what_the_sandbox_allows(program):
    program = program.replace("ENVIRONMENT", repr(list(sandbox._ENVIRONMENT)))
    outcome = run(f"{program}\ndef f(): return 1", "assert f() == 1")
    assert outcome.passed, outcome


def run(program, check, limits=QUICK):
    """The outcome of a program that defines `f` and of a line of tests."""
    return sandbox.run(sandbox.Task(program, "f", f"def check(f):\n    {check}\n"), MEANS, limits)


@needs_confinement
@pytest.mark.parametrize(
    ("value", "expression"),
    [
        ("collections.Counter('aab')", "f() == {'a': 2, 'b': 1}"),
        ("collections.OrderedDict(a=1)", "f() == {'a': 1}"),
        ("collections.namedtuple('P', 'x y')(1, 2)", "f() == (1, 2)"),
        ("numpy.int64(3)", "f() == 3"),
        ("numpy.bool_(True)", "f() == True"),
        ("[numpy.float64(0.1)]", "f() == [0.1]"),
        ("10 ** 9_999", "f() == 10 ** 9_999"),
        ("decimal.Decimal('0.5')", "f() == 0.5"),
        ("fractions.Fraction(1, 2)", "f() == 0.5"),
        ("-0.0", "str(f()) == '-0.0'"),
        ("float('inf')", "f() > 1e308"),
        ("float('nan')", "f() != f()"),
        ("'\\ud800'", "f() == '\\ud800'"),
        ("1j", "f() == 1j"),
        ("enum.IntEnum('E', 'a').a", "f() == 1"),
        ("frozenset('a')", "f() == {'a'}"),
        ("bytearray(b'a')", "f() == b'a'"),
        ("range(2)", "f() != [0, 1] and list(f()) == [0, 1] and len(f()) == 2"),
        ("{(1, 'a'): [None]}", "f() == {(1, 'a'): [None]}"),
        ("(x for x in 'ab')", "f() != ['a', 'b'] and list(f()) == ['a', 'b']"),
        ("'a\\n\\x00'", "f() == 'a\\n\\x00'"),
        ("(True, 1, 1.0)", "list(map(type, f())) == [bool, int, float]"),
        ("[set(), (), {}, []]", "f() == [set(), (), {}, []]"),
    ],
)
def test_results_are_what_they_were(value, expression):
    """Between the processes a value keeps what tests see of it: type, order, equality."""
    program = f"import collections, decimal, enum, fractions, numpy\ndef f(): return {value}"
    assert run(program, f"assert {expression}, f()").reason == "passed"


NUMBERS = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
PLAIN = st.recursive(
    st.none() | NUMBERS | st.text() | st.binary(),
    lambda part: st.lists(part) | st.tuples(part, part) | st.dictionaries(st.text() | st.integers(), part),
    max_leaves=20,
)


@given(PLAIN)
@settings(deadline=None, derandomize=True)
def test_plain_data_survive_the_way(value):
    there = sandbox_child.unpack(json.loads(json.dumps(sandbox_child.pack(value))))
    assert there == value and repr(there) == repr(value)


@given(st.recursive(st.none() | st.text() | st.integers(), lambda p: st.lists(p) | st.dictionaries(st.text(), p)))
@settings(deadline=None, derandomize=True)
def test_what_is_no_reply_is_no_value(reply):
    """Whatever a judged process sends, the tests see plain data or an error."""
    plain = (type(None), bool, int, float, str, bytes, complex, list, tuple, dict, set, frozenset)
    try:
        value = sandbox_child.unpack(reply)
    except Exception:
        return
    assert (
        type(value) in plain or type(value).__name__ in ("deque", "Decimal", "Fraction") or hasattr(value, "__next__")
    )


@needs_confinement
def test_tests_see_arguments_errors_and_state():
    program = "calls = []\ndef f(*a, **k):\n    calls.append((a, k))\n    return [len(calls), *a, k] if a else int('x')"
    assert run(program, "assert f(1, [2], x=(3,)) == [1, 1, [2], {'x': (3,)}]; assert f(5) == [2, 5, {}]").passed
    caught = "try: f()\n    except ValueError: return\n    assert False"
    assert run(program, caught).passed
    assert run("def f(): return object()", "f()").reason == "NotPlainData"
    assert run("def f(): raise SystemExit", "f()").reason == "SystemExit"
    assert run("class passed(Exception): pass\ndef f(): raise passed", "f()").reason == "ProgramError"
    assert run("def f(x): pass", "f(print)").reason == "NotPlainData"
    assert run("def g(): pass", "f()").reason == "KeyError"
    assert run("def f(: pass", "f()").reason == "SyntaxError"


@pytest.fixture
def unprobed():
    """Let the sandbox look anew at what this machine has, before and after."""
    sandbox._probed.cache_clear()
    yield
    sandbox._probed.cache_clear()


def test_without_means_the_flag_is_refused(monkeypatch, unprobed, tmp_path):
    """The reason of each means, and the remedy."""
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sandbox, "_CHILD", tmp_path / "missing.py")
    with pytest.raises(S2TError, match=r"No permissions to create.*landlock.*--allow-code-execution=unconfined"):
        sandbox.means_for("confined")
    assert sandbox.means_for("unconfined") == "unconfined"


@needs_landlock
def test_the_next_means_is_taken_where_the_first_does_not_work(monkeypatch, unprobed, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert sandbox.means_for("confined") == "landlock"


@needs_landlock
def test_a_means_that_does_not_hold_is_not_taken(monkeypatch, unprobed, tmp_path):
    """A `bwrap` that runs its command without confining it: the probe must notice."""
    open_door = tmp_path / "bwrap"
    open_door.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    open_door.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert sandbox.means_for("confined") == "landlock"
    assert any("bubblewrap: a trial program was not held" in reason for reason in sandbox._probed()[1])


@pytest.mark.parametrize(
    ("flag", "execution"),
    [
        ([], None), (["--allow-code-execution"], "confined"), (["--allow-code-execution=confined"], "confined"),
        (["--allow-code-execution=unconfined"], "unconfined"), (["--allow-code-execution", "--limit=1"], "confined"),
    ],
)  # fmt: skip
def test_the_flag_is_a_choice(flag, execution, monkeypatch, tmp_path):
    seen = []

    def evaluate(session, items, methods, settings, **rest):
        seen.append(settings.allow_code_execution)
        raise S2TError("seen")

    monkeypatch.setattr("select_to_think.evaluation.runner.evaluate", evaluate)
    monkeypatch.setattr("select_to_think.session.Session.load", lambda *_: None)
    assert app.main(["eval", *flag, "--out", str(tmp_path / "out")]) == 2
    assert seen == [execution]


def test_other_choices_are_one_line(capfd):
    assert app.main(["eval", "--allow-code-execution=unconfned"]) == 2
    assert "did you mean 'unconfined'" in capfd.readouterr().err


def test_unconfined_programs_are_judged_alike():
    for result, right in (("x * x", True), ("x + x", False)):
        task = sandbox.Task(f"def f(x): return {result}", "f", "def check(f):\n    assert f(3) == 9")
        assert sandbox.run(task, sandbox.means_for("unconfined"), QUICK).passed is right


@needs_confinement
@pytest.mark.skipif(not PACK.is_dir(), reason="the pack of benchmark data is not here (S2T_BENCH_DATA)")
def test_golds_of_humaneval_pass_and_others_fail():
    with gzip.open(PACK / "humaneval.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    for row, other in list(pairwise(rows))[::8]:
        meta = row["meta"] | {"prompt": row["question"]}
        assert grade(row["answer"], "", "code", meta=meta, allow_code_execution="confined").right, row["id"]
        fenced = f"```python\n{row['question']}{row['answer']}```"
        assert grade(fenced, "", "code", meta=meta, allow_code_execution="confined").right, row["id"]
        assert not grade(other["answer"], "", "code", meta=meta, allow_code_execution="confined").right, row["id"]
