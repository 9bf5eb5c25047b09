"""Laws and promises of scorer training: what it changes, what it leaves alone, how it fails, how it resumes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr

from drive import attached
from select_to_think.collect.records import Trajectory
from select_to_think.models.adapter import inject_adapter, load_adapter
from select_to_think.models.scorer import load_scorer
from select_to_think.structures import S2TError
from select_to_think.training.distill import DistillTrainer
from select_to_think.training.groups import group_count, make_examples, split
from select_to_think.training.scorer import ScorerTrainer, group_metrics, train_scorer
from select_to_think.training.settings import ScorerConfig
from select_to_think.training.trainer import AdapterTrainer
from training_fixtures import loaded, make_trajectories, shake_switch

QUICK = ScorerConfig(lora_rank=4, lora_alpha=8.0, bins=8, epochs=2, learning_rate=3e-3, batch_trajectories=8)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter_model.safetensors") | load_file(out / "score_head.safetensors")


@pytest.mark.parametrize("mode", ["coupled", "proposer", "activated"])
def test_training_leaves_every_other_weight_bit_identical(tmp_path: Path, mode: Any) -> None:
    slm = loaded()
    before = {name: tensor.clone() for name, tensor in slm.model.state_dict().items()}
    modules = [name for name, _ in slm.model.named_modules()]
    train_scorer(slm, make_trajectories(24), replace(QUICK, mode=mode, epochs=1), tmp_path / "scorer")
    after = slm.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [name for name, _ in slm.model.named_modules()] == modules
    assert not list(tmp_path.glob("*.training")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("score", ["bins", "anchored"])
def test_training_learns(tmp_path: Path, score: Any) -> None:
    config = replace(QUICK, score=score, epochs=5, patience=5)
    steps: list[tuple[int, int]] = []
    summary = train_scorer(
        loaded(),
        make_trajectories(120, learnable=True),
        config,
        tmp_path / "scorer",
        progress=lambda *s: steps.append(s),
    )
    assert summary["agree_at_1"] > summary["greedy_agree_at_1"] + 0.25
    assert summary["epochs"][-1]["train_loss"] < 0.6 * summary["epochs"][0]["train_loss"]
    assert summary["agree_at_1"] == max(epoch["agree_at_1"] for epoch in summary["epochs"])
    assert summary["spearman"] > 0.4
    assert steps[-1][0] == steps[-1][1] == summary["steps"]
    described = json.loads((tmp_path / "scorer" / "scorer.json").read_text())
    assert described["training"]["epochs"] == summary["epochs"]


@pytest.mark.parametrize("trainer", [ScorerTrainer, DistillTrainer])
def test_an_epoch_is_chosen_by_agreement_and_among_equals_by_nats(trainer: type[AdapterTrainer]) -> None:
    def choice(agreement: float, nats: float) -> float:
        return trainer.choice({trainer.agreement: agreement, trainer.nats: nats})

    assert choice(0.5, 2.9999) > choice(0.5, 3.0)
    assert choice(0.5 + 1e-7, 20.0) > choice(0.5, 0.0)


def test_the_best_epoch_is_what_is_saved(tmp_path: Path) -> None:
    data = make_trajectories(40, learnable=True)
    summary = train_scorer(loaded(), data, replace(QUICK, epochs=3, patience=3), tmp_path / "scorer")
    slm = loaded()
    scorer = load_scorer(tmp_path / "scorer", slm)
    switch = attached(slm, tmp_path / "scorer")
    _, held_out = split(make_examples(data))
    agreed = 0
    for example in held_out:
        for position, candidates, slm_logprobs, llm_logprobs in zip(
            example.positions, example.candidates, example.slm_logprobs, example.llm_logprobs, strict=True
        ):
            switch.set_active(False)
            with torch.no_grad():
                cache = slm.model(torch.tensor(example.tokens[None, :position]), use_cache=True).past_key_values
                scores = []
                for candidate in candidates:
                    switch.set_active(True)
                    out = slm.model(torch.tensor([[candidate]]), past_key_values=cache, output_hidden_states=True)
                    cache.crop(-1)
                    row = (out.hidden_states[-1][0, -1] @ scorer.bin_rows.T).softmax(-1)
                    scores.append(float(row @ torch.linspace(0, 1, 8)))
            total = np.array(scores) / scorer.score_temperature + scorer.anchor * slm_logprobs
            agreed += int(total.argmax() == llm_logprobs.argmax())
    assert agreed / group_count(held_out) == pytest.approx(summary["agree_at_1"])


def test_plain_and_packed_training_end_at_the_same_weights(tmp_path: Path) -> None:
    data = make_trajectories(24)
    config = replace(QUICK, epochs=1, batch_trajectories=4)
    for name, changed in {
        "packed": config, "plain": replace(config, packed=False), "micro": replace(config, micro_batch=2)
    }.items():  # fmt: skip
        train_scorer(loaded(), data, changed, tmp_path / name)
    expected = weights(tmp_path / "packed")
    for name in ("plain", "micro"):
        for key, tensor in weights(tmp_path / name).items():
            torch.testing.assert_close(tensor, expected[key], atol=2e-4, rtol=1e-3, msg=f"{name} {key}")


def test_a_killed_training_resumes_to_the_same_result(tmp_path: Path) -> None:
    data, config = make_trajectories(24, learnable=True), replace(QUICK, epochs=3, patience=3)
    whole = train_scorer(loaded(), data, config, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 2 * total // 3 + 1:
            raise Killed

    with pytest.raises(Killed):
        train_scorer(loaded(), data, config, tmp_path / "killed", progress=kill)
    assert not (tmp_path / "killed").exists()
    with pytest.raises(S2TError, match="--resume"):
        train_scorer(loaded(), data, config, tmp_path / "killed")
    with pytest.raises(S2TError, match="bins was 8, is 9"):
        train_scorer(loaded(), data, replace(config, bins=9), tmp_path / "killed", resume=True)
    resumed = train_scorer(loaded(), data, config, tmp_path / "killed", resume=True)
    for key, tensor in weights(tmp_path / "killed").items():
        assert torch.equal(tensor, weights(tmp_path / "whole")[key]), key
    assert [e["agree_at_1"] for e in resumed["epochs"]] == [e["agree_at_1"] for e in whole["epochs"]]
    assert [p.name for p in tmp_path.iterdir() if p.name not in ("whole", "killed")] == []


def test_a_scorer_of_another_slm_is_refused(tmp_path: Path) -> None:
    train_scorer(loaded(), make_trajectories(24), replace(QUICK, epochs=1), tmp_path / "scorer")
    other = loaded(seed=1)
    with pytest.raises(S2TError, match="another SLM"):
        load_scorer(tmp_path / "scorer", other)
    with pytest.raises(S2TError, match="does not fit"):
        load_adapter(tmp_path / "scorer", loaded(layers=3))


def test_damaged_folders_are_one_line_errors(tmp_path: Path) -> None:
    slm, folder = loaded(), tmp_path / "scorer"
    with pytest.raises(S2TError, match="s2t train scorer"):
        load_scorer(folder, slm)
    train_scorer(slm, make_trajectories(24), replace(QUICK, epochs=1), folder)
    content = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(S2TError, match="cannot be read"):
        load_adapter(folder, slm)
    (folder / "adapter_model.safetensors").write_bytes(b"\x80\x04\x95" + content)  # starts like a pickle
    with pytest.raises(S2TError, match="cannot be read"):
        load_adapter(folder, slm)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(S2TError, match="use_dora"):
        load_adapter(folder, slm)
    (folder / "scorer.json").write_text("{")
    with pytest.raises(S2TError, match="not valid JSON"):
        load_scorer(folder, slm)


def test_bad_data_and_places_are_refused_before_training(tmp_path: Path) -> None:
    slm = loaded()
    (tmp_path / "taken").mkdir()
    with pytest.raises(S2TError, match="already exists"):
        train_scorer(slm, make_trajectories(24), QUICK, tmp_path / "taken")
    with pytest.raises(S2TError, match="no candidate groups"):
        train_scorer(slm, [], QUICK, tmp_path / "a")
    with pytest.raises(S2TError, match="too few"):
        train_scorer(slm, make_trajectories(1), QUICK, tmp_path / "a")
    with pytest.raises(S2TError, match="mixes group sizes"):
        train_scorer(slm, make_trajectories(12) + make_trajectories(12, group_size=5), QUICK, tmp_path / "a")
    with pytest.raises(S2TError, match="collect with the SLM"):
        train_scorer(slm, make_trajectories(24, vocab=90), QUICK, tmp_path / "a")
    for mode in ("coupled", "activated"):
        with pytest.raises(S2TError, match=f"--mode proposer, not {mode}"):
            train_scorer(slm, make_trajectories(24), replace(QUICK, mode=mode, score="adapted"), tmp_path / "a")
    with pytest.raises(S2TError, match="does not divide"):
        train_scorer(slm, make_trajectories(24), replace(QUICK, micro_batch=3), tmp_path / "a")
    broken: list[Trajectory] = make_trajectories(24)
    group = replace(broken[3].groups[0], llm_logprobs=(float("nan"),) * 4)
    broken[3] = replace(broken[3], groups=(group,))
    with pytest.raises(S2TError, match=rf"{broken[3].id}.*not finite"):
        train_scorer(slm, broken, QUICK, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_diverged_loss_is_an_error(tmp_path: Path) -> None:
    slm = loaded()
    with torch.no_grad():
        slm.model.get_input_embeddings().weight[:] = float("nan")
    with pytest.raises(S2TError, match="diverged"):
        train_scorer(slm, make_trajectories(24), replace(QUICK, epochs=1), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arch", ["qwen2", "phi3", "gemma3"])
def test_switch_is_exact_in_every_state(arch: str) -> None:
    slm = loaded(arch)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        base = slm.model(ids).logits
        switch = inject_adapter(slm.model, rank=3, alpha=3.0)
        shake_switch(switch)
        assert torch.equal(slm.model(ids).logits, base)
        switch.set_active(True)
        adapted = slm.model(ids).logits
        assert not torch.allclose(adapted, base, atol=1e-2)
        switch.set_active(False)
        assert torch.equal(slm.model(ids).logits, base)


def test_two_adapters_do_not_meet() -> None:
    slm = loaded()
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        first, second = (inject_adapter(slm.model, rank=2, alpha=2.0) for _ in range(2))
        for seed, switch in enumerate((first, second)):
            shake_switch(switch, seed)
        outputs = []
        for switch in (first, second, first):
            switch.set_active(True)
            outputs.append(slm.model(ids).logits)
            switch.set_active(False)
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-2)


def test_peft_reads_the_folder(tmp_path: Path) -> None:
    from peft import PeftModel

    train_scorer(loaded(), make_trajectories(24), replace(QUICK, epochs=1), tmp_path / "scorer")
    slm, ids = loaded(), torch.arange(3, 12)[None]
    switch = attached(slm, tmp_path / "scorer")
    switch.set_active(True)
    with torch.no_grad():
        ours = slm.model(ids).logits
        theirs = PeftModel.from_pretrained(loaded().model, str(tmp_path / "scorer"))(ids).logits
    torch.testing.assert_close(ours, theirs)


def test_the_split_is_by_question() -> None:
    """Whatever the ids, and however many there are."""
    data = make_trajectories(60)
    again = [replace(each, id=f"again-{i}") for i, each in enumerate(data)]
    train, held_out = split(make_examples([*data, *again, *make_trajectories(30, seed=1)]))
    assert not {e.key for e in train} & {e.key for e in held_out}
    assert len(train) + len(held_out) == 150 and len(held_out) > 4
    few, _ = split(make_examples(data))
    assert {e.key for e in few} <= {e.key for e in train} and len(few) < 60


def test_group_metrics_agree_with_scipy() -> None:
    random = np.random.default_rng(0)
    logits, llm = random.normal(size=(20, 6)).astype(np.float32), random.normal(size=(20, 6)).astype(np.float32)
    logits[0] = 1.0  # a constant ranking says nothing
    rows = group_metrics(logits, llm)
    assert rows[0, 2] == 0
    np.testing.assert_allclose(
        rows[1:, 2], [spearmanr(a, b).statistic for a, b in zip(logits[1:], llm[1:], strict=True)], 1e-5
    )
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(llm).argmax(1), reduction="none"
    )
    np.testing.assert_allclose(rows[:, 3], expected.numpy(), rtol=1e-5)
