"""Killing the process at any moment and running the command again loses nothing and doubles nothing (real SIGKILL)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fake_session import COLLECT, DECODE, FakeSession, fake_items, work
from select_to_think.collect.collect import collect
from select_to_think.collect.records import read_trajectories

SCRIPT = Path(__file__).with_name("fake_session.py")
ENVIRONMENT = {"PYTHONPATH": f"{SCRIPT.parents[1] / 'src'}:{SCRIPT.parent}", "PATH": ""}


def contents(command: str, folder: Path) -> dict[str, object]:
    """What the files say, without what differs from run to run: times and dates."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if name.startswith("shard-"):
            found[name] = path.read_bytes()
        elif path.suffix == ".jsonl":
            found[name] = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
        else:
            found[name] = timeless(json.loads(path.read_text()))
    return found


def timeless(value: object) -> object:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "tokens_per_second", "provenance")}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("command", ["collect", "evaluate"])
@pytest.mark.parametrize("kind", ["write", "before-rename", "after-rename"])
def test_killed_again_and_again(command: str, kind: str, tmp_path: Path) -> None:
    work(command, tmp_path / "whole")
    run = subprocess.run(
        [sys.executable, SCRIPT, command, tmp_path / "killed", kind],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 2
    assert contents(command, tmp_path / "killed") == contents(command, tmp_path / "whole")


def test_a_killer_from_outside(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    slow = (
        "import sys, time, pathlib, fake_session as fake; real = fake.fake_labels\n"
        "fake.fake_labels = lambda *a, **k: time.sleep(0.01) or real(*a, **k)\n"
        "fake.work('collect', pathlib.Path(sys.argv[1]))"
    )
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", slow, str(folder)],
            env=ENVIRONMENT,
        )
        before = stored(folder)
        while child.poll() is None and stored(folder) < before + 3:
            time.sleep(0.002)
        child.kill()
        child.wait()
    work("collect", folder)
    work("collect", tmp_path / "whole")
    assert contents("collect", folder) == contents("collect", tmp_path / "whole")


def stored(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))


def test_nothing_is_rolled_out_twice(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(FakeSession(), fake_items(), COLLECT, DECODE, tmp_path, stop)  # type: ignore[arg-type]
    session = FakeSession()
    collect(session, fake_items(), COLLECT, DECODE, tmp_path)  # type: ignore[arg-type]
    assert len(session.streamed) == 10 - 7
    assert [t.id for t in read_trajectories(tmp_path)] == [item.id for item in fake_items()]
    again = FakeSession()
    collect(again, fake_items(), COLLECT, DECODE, tmp_path)  # type: ignore[arg-type]
    assert not again.streamed
