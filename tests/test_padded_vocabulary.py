"""Two heads of one vocabulary, one padded further than the other (Qwen2.5: 151 936 and 152 064 rows), act as equals.

The rows without a token are given the largest logits of all, so that whoever forgets them chooses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from select_to_think.collect.collect import collect
from select_to_think.collect.records import Trajectory, read_trajectories
from select_to_think.config import CollectConfig, DecodeConfig, MentorConfig, SelectConfig
from select_to_think.evaluation.calibrate import calibrate
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.measure import measure
from select_to_think.models.loading import LoadedModel
from select_to_think.models.remote import Model
from select_to_think.session import Session
from select_to_think.training.distill import train_distill
from select_to_think.training.scorer import train_scorer
from select_to_think.training.settings import DistillConfig, ScorerConfig
from tiny import tiny_model, tiny_tokenizer

ROWS, MORE, WORDS = 64, 72, 60
QUESTIONS = ("w5 w6 w7", "w9 w33 w12 w4", "w41", "w8 w8 w20")
ITEMS = [Item(f"item-{i}", f"w{5 + i % 50} w{7 + i % 40} w9", "w5", split="train") for i in range(45)]
DECODE = DecodeConfig(max_new_tokens=10, max_batch=8)
COLLECT = CollectConfig(collect_budget=0.5, entropy_budget=0.5, group_size=4)
ADAPTER: dict[str, Any] = {"lora_rank": 2, "epochs": 1.0, "batch_trajectories": 8}
METHODS = ("greedy", "llm", "s2t", "takeover", "mentor-coin")
PADDED = pytest.mark.parametrize(("slm_rows", "llm_rows"), [(MORE, ROWS), (ROWS, MORE)])


def model(seed: int, rows: int) -> LoadedModel:
    """The same model for any number of rows, but for those without a token."""
    whole, made = tiny_model("qwen2", vocab=ROWS, seed=seed), tiny_model("qwen2", vocab=rows, seed=seed)
    state = whole.state_dict()
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            tensor[tuple(map(slice, state[name].shape))] = state[name]
        made.get_output_embeddings().weight[WORDS:] = 9.0 * made.get_output_embeddings().weight[5]
    return LoadedModel(made, tiny_tokenizer(WORDS), f"{rows} rows")


def pair(slm_rows: int, llm_rows: int) -> Session:
    session = Session(slm=model(0, slm_rows), llm=model(1, llm_rows))
    session.calibration = calibrate(session, [Item("c", "w50 w51", "w5", split="train")], decode=DECODE)
    return session


def collected(session: Session, folder: Path) -> Sequence[Trajectory]:
    collect(session, ITEMS, COLLECT, DECODE, folder)
    return list(read_trajectories(folder))


def test_the_rows_differ_and_the_tokens_do_not() -> None:
    models: list[Model] = [model(1, ROWS), model(1, MORE)]
    assert [each.vocab_size for each in models] == [ROWS, MORE]
    assert models[0].fingerprint != models[1].fingerprint


@PADDED
@pytest.mark.parametrize("method", METHODS)
def test_every_method_decides_alike(method: str, slm_rows: int, llm_rows: int) -> None:
    select, mentor = SelectConfig(trigger="kl", trigger_budget=0.5, candidates=4), MentorConfig(consult_rate=1.0)
    plain, padded = (
        each.generate(QUESTIONS, method, DECODE, select, mentor)
        for each in (pair(ROWS, ROWS), pair(slm_rows, llm_rows))
    )
    assert [each.tokens for each in padded] == [each.tokens for each in plain]
    assert all(token < WORDS for each in padded for token in each.tokens)
    assert sum(len(each.tokens) for each in padded) > 2 * len(QUESTIONS)


@PADDED
def test_thresholds_and_local_sufficiency_are_the_same(slm_rows: int, llm_rows: int) -> None:
    plain, padded = pair(ROWS, ROWS), pair(slm_rows, llm_rows)
    for name, values in plain.calibration.quantiles.items():
        np.testing.assert_allclose(padded.calibration.quantiles[name], values, atol=1e-5, err_msg=name)
    select = SelectConfig(trigger_budget=0.5)
    rows = [measure(each, ITEMS, select=select, decode=DECODE).rows for each in (plain, padded)]
    assert rows[0] == rows[1] and rows[0][0].n_steps > 0


@PADDED
def test_what_is_collected_and_trained_is_the_same(slm_rows: int, llm_rows: int, tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    for name, session in (("plain", pair(ROWS, ROWS)), ("padded", pair(slm_rows, llm_rows))):
        folder = tmp_path / name
        data = collected(session, folder / "collection")
        weights: dict[str, torch.Tensor] = {}
        train_scorer(session.slm, data, ScorerConfig(mode="coupled", **ADAPTER), folder / "scorer")
        for kind in ("kd", "sft"):
            config = DistillConfig(kind=kind, **ADAPTER)  # type: ignore[arg-type]
            train_distill(session, data, config, DECODE, folder / kind)
        for part in ("scorer", "kd", "sft"):
            tensors = load_file(folder / part / "adapter_model.safetensors")
            weights |= {f"{part} {key}": tensor for key, tensor in tensors.items()}
        found.append({"data": data, "weights": weights})
    plain, padded = found
    for one, other in zip(plain["data"], padded["data"], strict=True):
        assert (one.output_ids, one.prompt_ids) == (other.output_ids, other.prompt_ids)
        assert [group.candidates for group in one.groups] == [group.candidates for group in other.groups]
        for first, second in zip(one.groups, other.groups, strict=True):
            np.testing.assert_allclose(first.llm_logprobs, second.llm_logprobs, atol=2e-5)
    assert any(one.groups for one in plain["data"])
    for key, tensor in plain["weights"].items():
        torch.testing.assert_close(padded["weights"][key], tensor, atol=2e-4, rtol=1e-3, msg=key)
