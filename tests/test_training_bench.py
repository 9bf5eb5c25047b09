"""`bench train` counts exactly what goes through the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from select_to_think.structures import S2TError
from select_to_think.training.bench import bench_shape, bench_train
from select_to_think.training.settings import ScorerConfig, TrainShape
from tiny import tiny_model
from training_fixtures import loaded, make_trajectories


@pytest.mark.parametrize("mode", ["activated", "proposer", "coupled"])
def test_rows(mode: Any) -> None:
    data = make_trajectories(4)
    config = ScorerConfig(mode=mode, lora_rank=2, bins=4, batch_trajectories=1)
    result = bench_train(loaded(), data, config, repeats=1)
    packed, plain = result["rows"]
    assert (packed["name"], plain["name"]) == ("packed", "plain")
    assert packed["groups"] == plain["groups"] == 12
    whole = sum(len(t.prompt_ids) + len(t.output_ids) for t in data) if mode == "coupled" else 0
    each = [(len(t.prompt_ids) + g.position, len(g.candidates)) for t in data for g in t.groups]
    assert plain["token_forwards"] == sum((before + 1) * size for before, size in each) + whole
    last = sum(len(t.prompt_ids) + t.groups[-1].position for t in data)
    assert packed["token_forwards"] == (whole or last) + sum(size for _, size in each)
    assert plain["token_forwards_to_packed"] == plain["token_forwards"] / packed["token_forwards"]
    assert packed["seconds"] > 0 and plain["seconds"] > 0


def test_the_trajectories_span_all_lengths() -> None:
    data = make_trajectories(40)
    lengths = sorted(len(t.prompt_ids) + len(t.output_ids) for t in data)
    result = bench_train(loaded(), data, ScorerConfig(mode="coupled", lora_rank=2), limit=2, repeats=1)
    assert result["rows"][0]["token_forwards"] == lengths[0] + lengths[-1] + 2 * 12


def test_packed_count_is_what_the_embedding_sees() -> None:
    slm, data = loaded(), make_trajectories(1)
    seen: list[int] = []
    hook = slm.model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: seen.append(args[0].numel()))
    result = bench_train(slm, data, ScorerConfig(mode="proposer", lora_rank=2), repeats=1)
    hook.remove()
    assert seen[0] == result["rows"][0]["token_forwards"]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("mode", ["activated", "proposer"])
def test_a_slice_of_a_shape_counts_what_all_of_it_takes(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 triggers of 16 candidates in 500 tokens: over a hundred times fewer token-forwards."""
    monkeypatch.setattr("select_to_think.training.bench.random_model", lambda *_: tiny_model("qwen2"))
    shape = TrainShape(shape="tiny", plain_rows=4)
    config = ScorerConfig(mode=mode, lora_rank=2)
    result = bench_shape(shape, config, "cpu", repeats=1)
    packed, plain = result["rows"]
    assert packed["token_forwards"] == 500 + 40 * 16 and packed["groups"] == 40
    assert plain["token_forwards"] == sum(16 * (round(12.5 * group) + 1) for group in range(1, 41))
    assert plain["token_forwards_to_packed"] > 100
    assert result["plain_rows"] == 4 and 0 < packed["predicted_bytes"] < 640 * 500 * 4 * 32  # less than a row each
    assert plain["seconds_to_packed"] > 1


def test_what_a_slice_cannot_tell_is_refused() -> None:
    with pytest.raises(S2TError, match="--mode proposer or activated"):
        bench_shape(TrainShape(shape="qwen2.5-0.5b"), ScorerConfig(mode="coupled"), "cpu")
    with pytest.raises(S2TError, match="shape"):
        bench_shape(TrainShape(shape="qwen9"), ScorerConfig(), "cpu")
    for wrong in ({"groups": 501}, {"plain_rows": 641}):
        with pytest.raises(S2TError, match="more"):
            TrainShape(**wrong)
