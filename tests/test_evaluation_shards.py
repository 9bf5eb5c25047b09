"""Dividing an evaluation and joining it again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_session import SETTINGS, FakeSession, fake_items
from select_to_think.evaluation.merge import merge
from select_to_think.evaluation.results import load_results
from select_to_think.evaluation.run_folder import Shard
from select_to_think.evaluation.runner import evaluate
from select_to_think.structures import S2TError

ITEMS = fake_items(11, split="test")
METHODS = ("greedy", "s2t", "sample")
SEEDED = replace(SETTINGS, seeds=[0, 5])
TIMES = ("seconds", "tokens_per_second")


def run(out: Path, shard: Shard | None = None, methods: Any = METHODS, **settings: Any) -> None:
    evaluate(FakeSession(), ITEMS, methods, SEEDED, out=out, shard=shard, **settings)  # type: ignore


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / f"shard-{index}" for index in (1, 2, 3)]
    for index, folder in enumerate(folders, 1):
        run(folder, Shard(index, 3))
    return folders


def untimed(path: Path) -> list[dict[str, Any]]:
    """The lines or rows of a file without what differs from run to run."""
    text = path.read_text()
    found = json.loads(text)["results"] if path.name == "results.json" else map(json.loads, text.splitlines())
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in found]


def test_merged_shards_are_the_undivided_run(shards: list[Path], tmp_path: Path) -> None:
    run(tmp_path / "whole")
    merged = merge([shards[2], shards[0], shards[1]], tmp_path / "merged")
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.json*"))
    assert files == sorted(path.relative_to(tmp_path / "merged") for path in (tmp_path / "merged").rglob("*.json*"))
    assert len(files) == 6
    for file in files:
        if file.name != "run.json":
            assert untimed(tmp_path / "merged" / file) == untimed(tmp_path / "whole" / file), file
    assert (tmp_path / "merged" / "run.json").read_bytes() == (tmp_path / "whole" / "run.json").read_bytes()
    assert load_results(tmp_path / "merged" / "results.json") == merged
    assert "shard" not in merged.provenance["config"]
    before = {file: (tmp_path / "merged" / file).read_bytes() for file in files}
    merge(shards, tmp_path / "merged")
    assert before == {file: (tmp_path / "merged" / file).read_bytes() for file in files}
    session = FakeSession()
    evaluate(session, ITEMS, METHODS, SEEDED, out=tmp_path / "merged")  # type: ignore[arg-type]
    assert not session.streamed


def test_records_keep_their_bytes(shards: list[Path], tmp_path: Path) -> None:
    merge(shards, tmp_path / "merged")
    lines = (tmp_path / "merged" / "records-s2t.jsonl").read_bytes().splitlines()
    for index, folder in enumerate(shards):
        assert lines[index::3] == (folder / "records-s2t.jsonl").read_bytes().splitlines()


def test_what_cannot_be_merged(shards: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(tmp_path / "whole")
    run(tmp_path / "half", Shard(1, 2))
    run(tmp_path / "other", Shard(3, 3), methods=("greedy",))
    for folders, says in (
        (shards[:2], "shard 3/3 is missing"),
        ([*shards, shards[0]], "both hold shard 1/3"),
        ([*shards[:2], tmp_path / "whole"], "not a shard but a whole run"),
        ([*shards, tmp_path / "half"], "into 2 and 3 shards"),
        ([*shards[:2], tmp_path / "other"], "methods.s2t"),
        ([], "nothing to merge"),
        ([tmp_path / "nowhere"], "cannot read"),
    ):
        with pytest.raises(S2TError, match=says):
            merge(folders, out)
    assert not out.exists()
    with pytest.raises(S2TError, match="another folder"):
        merge(shards, tmp_path / "half")
    (shards[1] / "records-s2t.jsonl").rename(shards[1] / "records-s2t.jsonl.part")
    with pytest.raises(S2TError, match=r"shard-2 is unfinished"):
        merge(shards, out)


def test_a_shard_that_was_stopped_goes_on(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 4 * 4
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Shard(2, 3), progress=stop)
    session = FakeSession()
    evaluate(session, ITEMS, METHODS, SEEDED, out=tmp_path, shard=Shard(2, 3))  # type: ignore[arg-type]
    assert len(session.streamed) == 16 - 6
    with pytest.raises(S2TError, match=r"shard was '2/3', is '1/3'"):
        run(tmp_path, Shard(1, 3))


def test_shards_are_balanced_and_cover_every_item() -> None:
    shares = [Shard(index, 3).of(ITEMS) for index in (1, 2, 3)]
    assert sorted(item.id for share in shares for item in share) == sorted(item.id for item in ITEMS)
    assert {len(share) for share in shares} == {3, 4}
    assert str(Shard.parse("2/3")) == "2/3"
    with pytest.raises(S2TError, match="use fewer"):
        Shard(1, 12).of(ITEMS)
    for text in ("0/3", "4/3", "1", "1/", "a/b", "1/3/4", "-1/3"):
        with pytest.raises(S2TError, match="i/n"):
            Shard.parse(text)
