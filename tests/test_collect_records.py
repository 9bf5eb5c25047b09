"""Collections: what the groups are, what is refused, and broken shards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_session import COLLECT, DECODE, FakeSession, fake_items, fake_labels, work
from select_to_think.collect.collect import collect
from select_to_think.collect.records import Trajectory, read_manifest, read_trajectories
from select_to_think.evaluation.items import question_key
from select_to_think.files import parse_record
from select_to_think.structures import S2TError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    work("collect", tmp_path / "collection")
    return tmp_path / "collection"


def test_groups_are_the_steps_above_the_thresholds(folder: Path) -> None:
    session = FakeSession()
    both = 0
    for item, trajectory in zip(fake_items(), read_trajectories(folder), strict=True):
        tokens = session.answer(item.question, "s2t").tokens
        labels = fake_labels(item.question, tokens)
        assert (trajectory.id, trajectory.domain, trajectory.output_ids) == (item.id, item.domain, tokens)
        assert trajectory.kl_nats == pytest.approx(labels.statistics["kl"].tolist(), abs=1e-6)
        limits = {"kl": (labels.statistics["kl"], 0.3), "entropy": (labels.statistics["entropy"], 0.3)}
        hit = {
            p: [t for t, (values, budget) in limits.items() if values[p] > session.calibration.threshold(t, budget)]
            for p in range(len(tokens))
        }
        assert {g.position: list(g.triggers) for g in trajectory.groups} == {p: t for p, t in hit.items() if t}
        for group in trajectory.groups:
            p = group.position
            both += len(group.triggers) == 2
            assert group.candidates == tuple(labels.slm_ids[p, :16])
            assert group.slm_logprobs == pytest.approx(labels.slm_logprobs[p, :16], abs=1e-6)
            assert group.llm_logprobs == pytest.approx(labels.llm_logprobs[p, :16], abs=1e-6)
            everything = dict(zip(labels.llm_top_ids[p].tolist(), labels.llm_top_logprobs[p].tolist(), strict=True))
            outside = max(v for token, v in everything.items() if token not in group.candidates)
            assert group.llm_best_outside_logprob == pytest.approx(outside, abs=1e-6)
            assert group.chosen == (group.candidates.index(tokens[p]) if tokens[p] in group.candidates else -1)
            assert group.statistic == pytest.approx(limits[group.triggers[0]][0][p], abs=1e-6)
    assert both > 0


def test_the_summary_counts_what_is_there(folder: Path) -> None:
    summary = work("collect", folder)
    groups = [group for trajectory in read_trajectories(folder) for group in trajectory.groups]
    assert (summary.trajectories, summary.groups) == (len(fake_items()), len(groups))
    assert summary.groups_by_trigger["kl"] == sum("kl" in group.triggers for group in groups)


def test_the_manifest_knows_every_item(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert [item_id for shard in manifest["shards"] for item_id in shard["items"]] == [i.id for i in fake_items()]
    assert [k for shard in manifest["shards"] for k in shard["question_keys"]] == [
        question_key(i) for i in fake_items()
    ]
    assert manifest["fingerprints"]["slm"] == "slm" and manifest["config"]["group_size"] == 16


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda record: record.pop("output_ids"), "output_ids is missing"),
        (lambda record: record.update(schema=2), "schema is 2"),
        (lambda record: record.update(kl_nats=[]), "differ in length"),
        (lambda record: record["groups"][0].update(position=999), "outside the output"),
        (lambda record: record["groups"][0].update(candidates=[1]), "different lengths"),
        (lambda record: record["groups"][0].update(chosen=77), "chose none"),
        (lambda record: record.update(groups=3), "groups: Input should be a valid"),
        (lambda record: record.update(id="renamed"), "SHA-256"),
    ],
)
def test_a_broken_shard_is_named_by_line(change: Any, says: str, folder: Path) -> None:
    path = folder / "shard-00001.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    number = next(n for n, record in enumerate(records) if record["groups"])
    change(records[number])
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(S2TError) as error:
        list(read_trajectories(folder))
    assert "shard-00001.jsonl" in str(error.value) and says in str(error.value)
    assert says == "SHA-256" or f"line {number + 1}" in str(error.value)


def test_json_and_back(folder: Path) -> None:
    for trajectory in read_trajectories(folder):
        line = json.dumps(trajectory.to_json()).encode()
        assert parse_record(Trajectory, line, "line", remedy="") == trajectory


def test_an_unfinished_collection_is_not_read(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work("collect", tmp_path, progress=stop)
    with pytest.raises(S2TError, match="unfinished"):
        list(read_trajectories(tmp_path))


def run(folder: Path, session: Any = None, items: Any = None, config: Any = COLLECT, decode: Any = DECODE) -> None:
    collect(session or FakeSession(), items or fake_items(), config, decode, folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"config": replace(COLLECT, group_size=8)}, "group_size was 16, is 8"),
        ({"session": FakeSession(fingerprint="other")}, "slm was 'slm', is 'other'"),
        ({"items": fake_items(9)}, "answers to other questions (10 there, 9 here)"),
        ({"decode": replace(DECODE, max_new_tokens=3)}, "max_new_tokens"),
    ],
)
def test_a_folder_of_another_collection_is_refused(change: dict[str, Any], says: str, folder: Path) -> None:
    with pytest.raises(S2TError) as error:
        run(folder, **change)
    assert says in str(error.value)


def test_another_batch_size_goes_on(folder: Path) -> None:
    run(folder, decode=replace(DECODE, max_batch=2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"items": fake_items(split="test")}, "refusing to collect from test data"),
        ({"config": replace(COLLECT, triggers="kl,entropi")}, "entropy"),
        ({"config": replace(COLLECT, triggers=" ")}, "no trigger"),
        ({"config": replace(COLLECT, group_size=65)}, "only 64 tokens"),
    ],
)
def test_mistakes_are_one_line(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(S2TError) as error:
        run(tmp_path, **change)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_candidates_that_may_not_be_emitted_are_refused(tmp_path: Path) -> None:
    class Masked(FakeSession):
        def label(self, *arguments: Any, **settings: Any) -> Any:
            for index, labels in super().label(*arguments, **settings):
                labels.slm_logprobs[:, 10:] = -np.inf
                yield index, labels

    with pytest.raises(S2TError, match="only 10 tokens"):
        run(tmp_path, session=Masked())
