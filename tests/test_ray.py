"""Work over a Ray cluster on this machine. What needs Ray is skipped where the extra is not installed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fake_ray import FakeHolder
from fake_session import COLLECT, DECODE, SETTINGS, FakeSession, fake_items, work
from select_to_think.cli.app import build
from select_to_think.collect.collect import collect
from select_to_think.config import DecodeConfig, EvalSettings, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.evaluation.items import load_pair_split
from select_to_think.evaluation.measure import measure
from select_to_think.evaluation.runner import evaluate
from select_to_think.integrations import ray_workers
from select_to_think.integrations.ray_workers import (
    MOST_LOSSES,
    RayConfig,
    RayWorkers,
    Slot,
    connected,
    pairs_of,
    reachable,
    room,
    share_of,
)
from select_to_think.session import Session
from select_to_think.structures import S2TError
from test_collect_kill import contents, timeless

HERE = Path(__file__).parent
PAIR = PairConfig()
LOCAL = RayConfig(ray="local", ray_workers=2, ray_cpus=0.25)


@pytest.mark.parametrize("workers", [1, 2, 7, 100])
@pytest.mark.parametrize("rows", [1, 4, 32])
@pytest.mark.parametrize("items", [1, 5, 100, 3001])
def test_shares_hand_out_all_and_end_small(items: int, rows: int, workers: int) -> None:
    left, shares = items, []
    while left:
        shares.append(share_of(left, workers, rows))
        left -= shares[-1]
        assert left >= 0
    assert max(shares) <= -(-items // workers)  # nobody gets more than an equal share
    assert shares[-1] <= rows  # the last ones keep nobody waiting for more than a batch


def test_as_many_workers_as_the_living_nodes_have_room_for() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    assert room(nodes, {"CPU": 2.0, "GPU": 0.0}) == 4 + 1
    assert room(nodes, {"CPU": 1.0, "GPU": 0.3}) == 6
    assert room(nodes, {"CPU": 1.0, "GPU": 1.5}) == 1
    assert room(nodes, {"CPU": 9.0, "GPU": 0.0}) == 0
    assert room(nodes, {"CPU": 0.0, "GPU": 0.0}) == 11


def test_a_fleet_is_one_pair_for_each_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("calibration.json").touch()
    pair = PairConfig(llm="http://a:1/v1, http://b:1/v1", calibration="calibration.json", slm="org/name")
    found = pairs_of(pair)
    assert [each.llm for each in found] == ["http://a:1/v1", "http://b:1/v1"]
    assert {each.calibration for each in found} == {str(tmp_path / "calibration.json")}
    assert {each.slm for each in found} == {"org/name"}
    assert pairs_of(PairConfig()) == [PairConfig()]


def test_a_fleet_without_a_cluster_is_refused() -> None:
    with pytest.raises(S2TError, match=r"several servers .* --ray"):
        _ = Session.load(PairConfig(llm="http://a:1/v1,http://b:1/v1")).llm


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["eval", "--ray-gpus", "1"], "go with --ray"),
        (["measure", "--ray", "ray://head:10001"], "run this on a node of the cluster"),
        (["collect", "--ray", "nonsense"], "is no address of a cluster"),
        (["eval", "--ray", "127.0.0.1:9"], "no Ray cluster at 127.0.0.1:9"),
        (["measure", "--ray=127.0.0.1:99999999"], "no Ray cluster at 127.0.0.1:99999999"),
        (["collect", "--ray", "--ray-cpus", "-1"], "ray_cpus must be at least 0"),
    ],
)
def test_refused_in_one_line(arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", object())  # nothing gets as far as using it
    result = CliRunner().invoke(build(), [*arguments, "--out", str(tmp_path / "out")])
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and says in lines[-1] and lines[-1].startswith("error:"), result.stderr
    assert not list(tmp_path.rglob("*.json*"))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(S2TError, match=r"ray is missing: .*pip install -c constraints.txt '\.\[ray\]'"),
        connected(LOCAL, PAIR, RuntimeConfig(), rows=1),
    ):
        pass


def test_an_address_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", object())
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with (
        pytest.raises(S2TError, match=r"no Ray cluster at 127\.0\.0\.1:9"),
        connected(replace(LOCAL, ray=""), PAIR, RuntimeConfig(), rows=1),
    ):
        pass
    assert reachable("") == "" and reachable("auto") == "auto"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of its own, to which this process is connected."""
    ray = pytest.importorskip("ray", reason="needs the extra select-to-think[ray]")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent / "src"), str(HERE)])
    ray.init("local", num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    yield ray
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def fakes(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayWorkers]:
    """Two workers without models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_workers, "Holder", FakeHolder)
        pair = PairConfig(slm="slm", distill=str(tmp_path_factory.mktemp("pids")))
        workers = RayWorkers(LOCAL, pair, RuntimeConfig(), rows=2)
    yield workers


@pytest.fixture
def repaired(fakes: RayWorkers) -> Iterator[Callable[..., None]]:
    """Gives one of them another pair; afterwards they have the first one again."""
    before = fakes.pairs

    def other(slot: Slot, *pairs: dict[str, str]) -> None:
        fakes.pairs, fakes.started = [replace(before[0], **pair) for pair in pairs], 0
        fakes.replace(slot)
        fakes.ray.get(slot.coming)  # or the other one does all before it is there

    yield other
    fakes.pairs = before
    for slot in fakes.slots:
        fakes.replace(slot)


def living(folder: Path) -> list[int]:
    """The processes of the workers, the youngest last."""
    paths = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return [int(path.name) for path in paths if Path("/proc", path.name).exists()]


def run(command: str, workers: RayWorkers, out: Path, items: Any = None, **settings: Any) -> Any:
    """What `work` does in this process."""
    if command == "evaluate":
        own = replace(SETTINGS, seeds=[0, 4])
        return evaluate(workers, items or fake_items(), ("greedy", "s2t", "maj@3"), own, out=out, **settings)
    return collect(workers, items or fake_items(), COLLECT, DECODE, out, **settings)


@pytest.mark.parametrize("command", ["evaluate", "collect"])
def test_killed_workers_lose_nothing_and_double_nothing(command: str, fakes: RayWorkers, tmp_path: Path) -> None:
    killed: dict[int, int] = {}  # when, and which process
    seen: list[int] = []

    def kill(done: int, total: int) -> None:
        seen.append(done)
        if done in (2, 6):
            killed[done] = living(Path(str(fakes.pairs[0].distill)))[-1 if done == 2 else 0]
            os.kill(killed[done], signal.SIGKILL)

    started = fakes.started
    run(command, fakes, tmp_path / "killed", progress=kill)
    work(command, tmp_path / "whole")
    assert contents(command, tmp_path / "killed") == contents(command, tmp_path / "whole")
    assert len(set(killed.values())) == 2 and fakes.started == started + 2
    assert seen == sorted(set(seen))  # none was handed in twice


def test_an_item_that_kills_every_worker_ends_the_run(fakes: RayWorkers, tmp_path: Path) -> None:
    items = fake_items()
    items[6] = replace(items[6], question="This is deadly for workers.")
    with pytest.raises(S2TError, match=rf"^{MOST_LOSSES} workers were lost while they had 'i\d', .* is kept: .*again$"):
        collect(fakes, items, COLLECT, DECODE, tmp_path / "out")
    done = set((tmp_path / "out" / "journal.jsonl").read_text().splitlines())
    collect(FakeSession(), items, COLLECT, DECODE, tmp_path / "out")  # type: ignore[arg-type]
    collect(FakeSession(), items, COLLECT, DECODE, tmp_path / "whole")  # type: ignore[arg-type]
    assert contents("collect", tmp_path / "out") == contents("collect", tmp_path / "whole")
    stored = {line for path in (tmp_path / "out").glob("shard-*") for line in path.read_text().splitlines()}
    assert done <= stored


def test_errors_of_the_user_come_from_workers_as_they_are(fakes: RayWorkers, tmp_path: Path) -> None:
    items = [replace(item, question=item.question.replace("What", "Is it wrong? What")) for item in fake_items()]
    with pytest.raises(S2TError, match=r"^this question is wrong: ask another$"):
        run("evaluate", fakes, tmp_path / "out", items)


def test_workers_must_hold_the_same_models(fakes: RayWorkers, repaired: Callable[..., None], tmp_path: Path) -> None:
    for command in ("evaluate", "collect"):
        repaired(fakes.slots[1], {"slm": "two"}, {})
        with pytest.raises(S2TError, match=r"^two workers do not hold the same \(slm differ\): "):
            run(command, fakes, tmp_path / command)


def test_a_server_of_a_fleet_that_goes_away_is_replaced(
    fakes: RayWorkers, repaired: Callable[..., None], tmp_path: Path
) -> None:
    items = [replace(item, question=f"away {item.id}") for item in fake_items()]
    repaired(fakes.slots[1], {"llm": "http://a"})
    with pytest.raises(S2TError, match="the server is away"):
        collect(fakes, items, COLLECT, DECODE, tmp_path / "fleet")
    repaired(fakes.slots[1], {"llm": "http://a"}, {"llm": "http://b"})
    collect(fakes, items, COLLECT, DECODE, tmp_path / "fleet")
    assert fakes.started > 1
    collect(FakeSession(), items, COLLECT, DECODE, tmp_path / "whole")  # type: ignore[arg-type]
    assert contents("collect", tmp_path / "fleet") == contents("collect", tmp_path / "whole")


@pytest.mark.parametrize("command", ["evaluate", "collect"])
def test_stopped_with_a_cluster_and_ended_without(command: str, fakes: RayWorkers, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(command, fakes, tmp_path / "out", progress=stop)
    work(command, tmp_path / "out")
    work(command, tmp_path / "whole")
    assert contents(command, tmp_path / "out") == contents(command, tmp_path / "whole")


def test_workers_for_which_there_is_no_room_hold_nothing_up(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_workers, "Holder", FakeHolder)
    pair = PairConfig(slm="slm", distill=str(tmp_path))
    workers = RayWorkers(replace(LOCAL, ray_cpus=1.0, ray_workers=5), pair, RuntimeConfig(), rows=2)
    run("collect", workers, tmp_path / "out")
    work("collect", tmp_path / "whole")
    assert contents("collect", tmp_path / "out") == contents("collect", tmp_path / "whole")
    assert any(slot.coming for slot in workers.slots) and workers.started == 5
    for slot in workers.slots:
        cluster.kill(slot.actor)


def test_measured_over_workers_as_in_one_process(fakes: RayWorkers) -> None:
    settings: dict[str, Any] = {"select": SelectConfig(trigger_budget=0.3), "decode": DECODE}
    one = measure(FakeSession(), fake_items(), **settings)  # type: ignore[arg-type]
    assert measure(fakes, fake_items(), **settings).rows == one.rows


def test_real_models_answer_as_in_one_process(cluster: Any, tmp_path: Path) -> None:
    """One row at a time every number is the same; batched, every token, choice and verdict is."""
    items = load_pair_split("test", limit_per_domain=2)
    workers = RayWorkers(LOCAL, PAIR, RuntimeConfig(), rows=1)
    session = Session.load(PAIR)
    for rows in (1, 4):
        settings = EvalSettings(DecodeConfig(max_batch=rows, max_new_tokens=40))
        for name, holder in (("one", session), ("many", workers)):
            evaluate(holder, items, ("s2t-local", "s2t"), settings, out=tmp_path / f"{name}-{rows}")
        for method in ("s2t-local", "s2t"):
            one, many = (
                [
                    timeless(json.loads(line))
                    for line in (tmp_path / f"{name}-{rows}" / f"records-{method}.jsonl").open()
                ]
                for name in ("one", "many")
            )
            assert len(one) == len(items) and any(record["flips"] for record in one)  # type: ignore[index, call-overload]
            assert many == one if rows == 1 else list(map(decided, many)) == list(map(decided, one))
    for slot in workers.slots:
        cluster.kill(slot.actor)


def decided(record: Any) -> Any:
    """What is promised of a record whatever stood beside it in the batch."""
    steps = [{name: step[name] for name in ("token", "index", "choice", "flip")} for step in record["steps"]]
    return {name: record[name] for name in ("id", "text", "extracted", "right", "rule", "tokens")} | {"steps": steps}
