"""Programs: found in texts, run in the sandbox, and kept from doing harm there."""

from __future__ import annotations

import gzip
import json
import os
import time
from itertools import pairwise
from pathlib import Path

import pytest

from select_to_think.evaluation.grading import extract, grade, sandbox
from select_to_think.structures import S2TError

PACK = Path(os.environ.get("S2T_BENCH_DATA", Path(__file__).parents[2] / "shared" / "data" / "bench"))
PROMPT = 'import math\n\n\ndef area(r):\n    """Area of a disc."""\n'
META = {"entry_point": "area", "prompt": PROMPT, "test": "def check(f):\n    assert abs(f(2) - 12.566370614) < 1e-6\n"}
QUICK = sandbox.Limits(wall_seconds=20.0, cpu_seconds=1)

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


@pytest.mark.parametrize("text", RIGHT)
def test_right_programs(text):
    verdict = grade(text, "", "code", meta=META, allow_code_execution=True)
    assert verdict.right, verdict


@pytest.mark.parametrize("text", WRONG)
def test_wrong_programs(text):
    assert not grade(text, "", "code", meta=META, allow_code_execution=True).right


def test_code_is_refused_without_permission():
    with pytest.raises(S2TError, match="--allow-code-execution"):
        grade(RIGHT[0], "", "code", meta=META)
    with pytest.raises(S2TError, match=r"meta\.test"):
        grade(RIGHT[0], "", "code", meta={"entry_point": "area"}, allow_code_execution=True)


def test_the_rule_says_how_the_program_ended():
    verdict = grade("    return 1 / 0\n", "", "code", meta=META, allow_code_execution=True)
    assert verdict.rule == "code:body:ZeroDivisionError"
    assert extract(RIGHT[3], "code", meta=META).rule == "fenced-function"


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.socket()", "import urllib.request; urllib.request.urlopen('http://127.0.0.1')",
        "import os; os.fork()", "import subprocess; subprocess.run(['true'])", "import os; os.system('true')",
        "import os; os.kill(os.getppid(), 9)", "import ctypes; ctypes.CDLL(None)", "open('../outside', 'w')",
        "import os; os.remove('/etc/hostname')", "import shutil; shutil.rmtree('/tmp')",
        "import os; os.open('/tmp/s2t-outside', os.O_CREAT | os.O_WRONLY)", "x = 'a' * (1 << 33)",
        "open('big', 'w').write('x' * (1 << 22))", "f = [open(f'f{i}', 'w') for i in range(99)]",
        "def f(): return f()\nf()", "import resource; resource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
        "raise KeyboardInterrupt", "import sys; sys.exit(0)", "import os; os._exit(0)", "(" * 9_000, "x = '\ud800'",
        "import threading\nclass E(BaseException): pass\nraise E",
    ],
)  # fmt: skip
def test_what_the_sandbox_refuses(program):
    assert not sandbox.run(program, QUICK).passed


@pytest.mark.parametrize(
    "program",
    [
        "open('a', 'w').write('x'); assert open('a').read() == 'x'", "import tempfile; tempfile.NamedTemporaryFile()",
        "import collections, dataclasses, functools, heapq, itertools, math, random, re, statistics, string, typing",
        "print('x' * 100_000)", "import os; assert set(os.environ) <= {'HOME', 'TMPDIR', 'LC_CTYPE'}, os.environ",
        "import os; assert os.listdir() == []",
        "assert 'CapEff:\\t0000000000000000' in open('/proc/self/status').read()",
    ],
)  # fmt: skip
def test_what_the_sandbox_allows(program):
    outcome = sandbox.run(program)
    assert outcome.passed, outcome
    assert outcome.network in ("namespace", "audit-hook")


def test_endless_programs_end():
    assert sandbox.run("while True: pass", QUICK).reason in ("killed", "timeout")
    started = time.monotonic()
    assert sandbox.run("import time; time.sleep(60)", sandbox.Limits(wall_seconds=2.0)).reason == "timeout"
    assert time.monotonic() - started < 30


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sandbox.run("open('a', 'w').write('x'); import os; os.mkdir('d')")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not PACK.is_dir(), reason="the pack of benchmark data is not here (S2T_BENCH_DATA)")
def test_golds_of_humaneval_pass_and_others_fail():
    with gzip.open(PACK / "humaneval.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    for row, other in list(pairwise(rows))[::8]:
        meta = row["meta"] | {"prompt": row["question"]}
        assert grade(row["answer"], "", "code", meta=meta, allow_code_execution=True).right, row["id"]
        fenced = f"```python\n{row['question']}{row['answer']}```"
        assert grade(fenced, "", "code", meta=meta, allow_code_execution=True).right, row["id"]
        assert not grade(other["answer"], "", "code", meta=meta, allow_code_execution=True).right, row["id"]
