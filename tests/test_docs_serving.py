"""docs/serving.md: its examples print what stands below them, and its tables name what there is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import httpx
import pytest

from select_to_think.config import MentorConfig, SelectConfig
from select_to_think.serving.trial import Server, server

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(sh|python)\n((?:(?!```).)*?)^```\n\n```text\n(.*?)^```", TEXT, re.M | re.S)


@pytest.fixture(scope="module")
def served() -> Iterator[Server]:
    with server("--pair", "demo", "--method", "s2t-local") as found:
        yield found


def test_there_are_examples_of_each_kind() -> None:
    assert len(EXAMPLES) >= 5
    assert {kind for kind, *_ in EXAMPLES} == {"sh", "python"}
    assert TEXT.count("http://127.0.0.1:8000") >= len(EXAMPLES)


@pytest.mark.parametrize(("kind", "code", "printed"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_print_what_stands_below_them(served: Server, kind: str, code: str, printed: str) -> None:
    code = code.replace("http://127.0.0.1:8000", served.url)
    assert served.url in code and "pip" not in code
    command = ["bash", "-euo", "pipefail", "-c", code] if kind == "sh" else [sys.executable, "-c", code]
    if kind == "sh" and not shutil.which("curl"):
        pytest.skip("there is no curl here")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == printed


def test_the_addresses_are_those_of_the_server(served: Server) -> None:
    table = TEXT.split("## 2. The API")[1].split("\n\n")[1]
    told = {tuple(each.split(" ")) for each in re.findall(r"`((?:GET|POST) /[^`]*)`", table)}
    schema = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    there = {(method.upper(), path) for path, about in schema.items() for method in about if "{" not in path}
    assert there <= told
    assert told - there <= {("GET", "/openapi.json"), ("GET", "/"), ("GET", "/tokenizer_info")}


def test_our_own_fields_are_those_of_the_configurations() -> None:
    table = TEXT.split("### The object `s2t`")[1].split("\n\n")[2]
    told = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:])))
    settings = {spec.name for config in (SelectConfig, MentorConfig) for spec in fields(config)}
    assert told == settings | {"method", "preset", "trace", "alternatives", "answer_tokens"}


def test_steps_have_the_fields_that_are_told(served: Server) -> None:
    table = TEXT.split("One step:")[1].split("\n\n")[1]
    told = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:])))
    body = {"model": "demo:s2t", "messages": [{"role": "user", "content": "How many keys?"}], "s2t": {"trace": True}}
    own = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60).json()["choices"][0]["s2t"]
    assert own["steps"] and {name for step in own["steps"] for name in step} == told
    assert {"method", "trigger", "threshold", "counts"} <= own.keys()


def test_metrics_are_those_that_are_told(served: Server) -> None:
    table = TEXT.split("## 5. Metrics")[1].split("\n\n")[2]
    told = set(re.findall(r"`(s2t_\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:])))
    text = httpx.get(f"{served.url}/metrics").text
    there = set(re.findall(r"^# TYPE (s2t_\w+) ", text, re.M))
    assert {name for name in there if not name.endswith("_created")} == told


def test_flags_are_those_of_the_command() -> None:
    command = [sys.executable, "-m", "select_to_think", "serve", "--help"]
    known = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}).stdout
    told = set(re.findall(r"`(--[a-z-]+)", TEXT.split("## 4. Limits")[1].split("## 5.")[0]))
    assert len(told) > 8 and [flag for flag in told if flag not in known] == []
