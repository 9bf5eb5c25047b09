"""Laws and promises of distillation: what it learns from, what it changes, how it resumes, how the policy runs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drive import attached
from select_to_think.collect.records import Trajectory
from select_to_think.config import DecodeConfig, PairConfig, SelectConfig
from select_to_think.evaluation import plain
from select_to_think.evaluation.plain import PlainModel
from select_to_think.evaluation.settings import trained_folders
from select_to_think.models.distilled import check_distilled
from select_to_think.session import Session
from select_to_think.structures import Progress, S2TError
from select_to_think.training.distill import Answer, collate, train_distill
from select_to_think.training.module import DistillModule
from select_to_think.training.scorer import train_scorer
from select_to_think.training.settings import DistillConfig, ScorerConfig
from tiny import tiny_loaded
from training_fixtures import make_trajectories

QUICK = DistillConfig(lora_rank=4, lora_alpha=8.0, epochs=2, learning_rate=3e-3, batch_trajectories=8)
DECODE = DecodeConfig(max_new_tokens=8, max_batch=16)
KINDS: tuple[Any, ...] = ("kd", "sft")


def session(**settings: Any) -> Session:
    """A pair of two tiny models with different weights."""
    return Session(PairConfig(**settings), slm=tiny_loaded(0), llm=tiny_loaded(1))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter_model.safetensors")


class Stages:
    """Records the progress of each stage, and stops the training at a step."""

    def __init__(self, stop_at: tuple[str, int] | None = None) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self.stop_at = stop_at
        self.name = ""

    def __call__(self, name: str) -> Stages:
        self.name = name
        return self

    def __enter__(self) -> Progress:
        name = self.name

        def report(done: int, total: int) -> None:
            self.seen.append((name, done, total))
            if self.stop_at == (name, done):
                raise KeyboardInterrupt

        return report

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize("kind", KINDS)
def test_distilling_learns_and_leaves_every_weight_as_it_was(tmp_path: Path, kind: Any) -> None:
    pair = session()
    with torch.no_grad():  # an LLM that is easily learned: it says the same everywhere
        pair.llm.model.get_input_embeddings().weight[:] = 1
        pair.llm.model.get_output_embeddings().weight.mul_(8)
    before = {name: tensor.clone() for name, tensor in pair.slm.model.state_dict().items()}
    llm = {name: tensor.clone() for name, tensor in pair.llm.model.state_dict().items()}
    stages = Stages()
    config = replace(QUICK, kind=kind, epochs=4, patience=4, learning_rate=1e-2)
    summary = train_distill(pair, make_trajectories(60), config, DECODE, tmp_path / "out", stage=stages)
    assert pair.backends and not any("memory" in vars(each) for each in pair.backends.values()), (
        "keys and values stayed"
    )
    after = pair.slm.model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert all(torch.equal(pair.llm.model.state_dict()[name], llm[name]) for name in llm)
    assert summary["nats_per_token"] < 0.9 * summary["before"]["nats_per_token"]
    assert summary["agreement"] > summary["before"]["agreement"] + 0.05
    assert summary["nats_per_token"] == min(epoch["nats_per_token"] for epoch in summary["epochs"])
    assert {name for name, _, _ in stages.seen} == {"answering the training problems", "distilling"}
    assert stages.seen[-1] == ("distilling", summary["steps"], summary["steps"])
    described = json.loads((tmp_path / "out" / "distill.json").read_text())
    assert described["kind"] == kind and described["slm_fingerprint"] == pair.slm.fingerprint
    assert described["training"]["epochs"] == summary["epochs"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_it_takes_as_many_steps_as_the_scorer(tmp_path: Path) -> None:
    data = [*make_trajectories(40), *(replace(each, groups=()) for each in make_trajectories(9, seed=1))]
    shared = {"lora_rank": 2, "epochs": 2.0, "batch_trajectories": 4, "patience": 9}
    assert DistillConfig().epochs == ScorerConfig().epochs and DistillConfig().lora_rank == ScorerConfig().lora_rank
    pair = session()
    scorer = train_scorer(pair.slm, data, ScorerConfig(**shared), tmp_path / "scorer")  # type: ignore[arg-type]
    distilled = train_distill(pair, data, DistillConfig(**shared), DECODE, tmp_path / "kd")  # type: ignore[arg-type]
    assert distilled["steps"] == scorer["steps"] and distilled["answers"] == scorer["trajectories"]


@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_its_plain_definition(kind: Any, arch: str) -> None:
    slm, llm = tiny_loaded(0, arch=arch).model, tiny_loaded(1).model
    forbidden = [0, 5, 63]
    module = DistillModule(slm, DistillConfig(kind=kind, lora_rank=2), forbidden, llm)
    random = np.random.default_rng(0)
    lengths = ((3, 12), (7, 9), (1, 14))
    answers = [Answer(str(n), random.integers(6, 60, n), start) for start, n in lengths]
    out = module(**collate(answers))
    expected, agree = [], []
    ordinary = [token for token in range(64) if token not in forbidden]
    with torch.no_grad():
        for answer in answers:
            tokens = torch.from_numpy(answer.tokens)
            for position in range(answer.start, answer.length):
                small, large = (m(tokens[None, :position]).logits[0, -1, ordinary].log_softmax(-1) for m in (slm, llm))
                target = ordinary.index(int(tokens[position]))
                if kind == "kd":
                    target = int(large.argmax())
                    expected.append((large.exp() * (large - small)).sum())
                else:
                    expected.append(-small[target])
                agree.append(int(small.argmax()) == target)
    torch.testing.assert_close(out["losses"], torch.stack(expected), atol=1e-4, rtol=1e-4)
    assert out["agree"].tolist() == agree
    assert out["rows"].tolist() == [row for row, (start, n) in enumerate(lengths) for _ in range(start, n)]


def test_the_answers_are_those_of_the_models(tmp_path: Path) -> None:
    """`sft` learns from what `llm` writes after the collection's prompts; the SLM's own rollouts are sampled."""
    pair, data = session(), make_trajectories(24)
    for kind, role in (("sft", "llm"), ("kd", "slm")):
        with pytest.raises(KeyboardInterrupt):
            stop = Stages(("distilling", 1))
            train_distill(pair, data, replace(QUICK, kind=kind), DECODE, tmp_path / kind, stage=stop)
        lines = (tmp_path / f"{kind}.training" / "answers.jsonl").read_text().splitlines()
        outputs = [json.loads(line)["output_ids"] for line in lines]
        assert len(outputs) == len(data)
        if role == "llm":
            prompts = {each.prompt_ids for each in data}
            greedy = {tuple(greedy_answer(pair, prompt)) for prompt in prompts}
            assert {tuple(output) for output in outputs} == greedy


def greedy_answer(pair: Session, prompt: tuple[int, ...]) -> list[int]:
    ids = torch.tensor([prompt])
    made = pair.llm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)  # type: ignore[operator]
    return list(map(int, made[0, len(prompt) :]))


def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    data, config = make_trajectories(24), replace(QUICK, epochs=3, patience=3)
    whole = train_distill(session(), data, config, DECODE, tmp_path / "whole")
    last = 2 * whole["steps"] // 3 + 1
    for at in (("answering the training problems", 10), ("distilling", last)):
        with pytest.raises(KeyboardInterrupt):
            resume = (tmp_path / "killed.training").exists()
            train_distill(session(), data, config, DECODE, tmp_path / "killed", resume=resume, stage=Stages(at))
        assert not (tmp_path / "killed").exists()
    with pytest.raises(S2TError, match="--resume"):
        train_distill(session(), data, config, DECODE, tmp_path / "killed")
    with pytest.raises(S2TError, match="kind was 'kd', is 'sft'"):
        train_distill(session(), data, replace(config, kind="sft"), DECODE, tmp_path / "killed", resume=True)
    with pytest.raises(S2TError, match="problems was"):  # their answers are kept by their places
        train_distill(session(), data[::-1], config, DECODE, tmp_path / "killed", resume=True)
    stages = Stages()
    resumed = train_distill(session(), data, config, DECODE, tmp_path / "killed", resume=True, stage=stages)
    assert not [name for name, _, _ in stages.seen if name.startswith("answering")]
    for key, tensor in weights(tmp_path / "killed").items():
        assert torch.equal(tensor, weights(tmp_path / "whole")[key]), key
    assert resumed["epochs"] == whole["epochs"] and resumed["before"] == whole["before"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_the_policy_decodes_with_the_adapter_and_without_an_llm(tmp_path: Path) -> None:
    train_distill(session(), make_trajectories(30), QUICK, DECODE, tmp_path / "kd", question_keys=["ab" * 32])
    pair = Session(PairConfig(distill=str(tmp_path / "kd")), slm=tiny_loaded(0))
    assert trained_folders(pair, "distill", SelectConfig()) == [tmp_path / "kd"]
    assert "ab" * 8 in (tmp_path / "kd" / "trained_on.json").read_text()
    questions = ["w5 w6 w7", "w9 w33 w12 w4"]
    greedy = [g.tokens for g in pair.generate(questions, "greedy", DECODE)]
    distilled = [g.tokens for g in pair.generate(questions, "distill", DECODE)]
    assert [g.tokens for g in pair.generate(questions, "greedy", DECODE)] == greedy, "the base came back changed"
    assert distilled != greedy
    other = tiny_loaded(0)
    attached(other, tmp_path / "kd").set_active(True)
    for question, tokens in zip(questions, distilled, strict=True):
        prompt = pair.prompt(question, 1, with_llm=False)
        assert plain.greedy(PlainModel(other.model), prompt, len(tokens), set(pair.stop_ids)) == list(tokens)
    assert "llm" not in pair.__dict__, "the policy loaded an LLM"


def test_wrong_folders_are_one_line_errors(tmp_path: Path) -> None:
    pair = session(distill=str(tmp_path / "kd"))
    with pytest.raises(S2TError, match="s2t train distill"):
        pair.generate(["w5"], "distill", DECODE)
    with pytest.raises(S2TError, match="missing for this pair: run `s2t train distill`"):
        session().generate(["w5"], "distill", DECODE)
    train_distill(session(), make_trajectories(24), replace(QUICK, epochs=1), DECODE, tmp_path / "kd")
    with pytest.raises(S2TError, match="another SLM"):
        check_distilled(tmp_path / "kd", tiny_loaded(3))
    with pytest.raises(S2TError, match="already exists"):
        train_distill(session(), make_trajectories(24), QUICK, DECODE, tmp_path / "kd")
    (tmp_path / "kd" / "distill.json").write_text("{")
    with pytest.raises(S2TError, match="not valid JSON"):
        pair.generate(["w5"], "distill", DECODE)


def test_bad_data_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    pair, out = session(), tmp_path / "out"
    bare: list[Trajectory] = [replace(each, groups=()) for each in make_trajectories(6)]
    with pytest.raises(S2TError, match="no candidate groups"):
        train_distill(pair, bare, QUICK, DECODE, out)
    with pytest.raises(S2TError, match="too few"):
        train_distill(pair, make_trajectories(1), QUICK, DECODE, out)
    with pytest.raises(S2TError, match="lower --max-new-tokens"):
        train_distill(pair, make_trajectories(24), QUICK, replace(DECODE, max_new_tokens=512), out)
    with pytest.raises(S2TError, match="collect with the SLM"):
        train_distill(pair, make_trajectories(24, vocab=90), QUICK, DECODE, out)
    with pytest.raises(S2TError, match="vocabular"):
        stranger = Session(slm=tiny_loaded(0), llm=tiny_loaded(1, words=63))
        train_distill(stranger, make_trajectories(24), QUICK, DECODE, out)
    with pytest.raises(S2TError, match="does not divide"):
        train_distill(pair, make_trajectories(24), replace(QUICK, micro_batch=3), DECODE, out)
    assert list(tmp_path.iterdir()) == []


def test_top_tokens_teach_what_the_whole_distribution_does(tmp_path: Path) -> None:
    """As many labels as tokens leave next to nothing in the bucket; with fewer the loss is a lower bound."""
    data, answers = make_trajectories(24), DecodeConfig(max_new_tokens=6, max_batch=16)
    config = replace(QUICK, epochs=1)
    whole = train_distill(session(), data, config, answers, tmp_path / "whole")
    every = train_distill(session(), data, replace(config, llm_top_k=64), answers, tmp_path / "every")
    few = train_distill(session(), data, replace(config, llm_top_k=3), answers, tmp_path / "few")
    assert every["before"]["nats_per_token"] == pytest.approx(whole["before"]["nats_per_token"], rel=1e-3)
    assert every["before"]["agreement"] == whole["before"]["agreement"] == few["before"]["agreement"]
    assert 0 < few["before"]["nats_per_token"] < whole["before"]["nats_per_token"]
    for key, tensor in weights(tmp_path / "every").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "whole")[key], atol=2e-4, rtol=1e-2, msg=key)


def test_labels_are_asked_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, file, config = make_trajectories(24), tmp_path / "labels.jsonl", replace(QUICK, epochs=1, llm_top_k=5)
    with pytest.raises(KeyboardInterrupt):
        stop = Stages(("asking the LLM for labels", 10))
        train_distill(session(), data, config, DECODE, tmp_path / "kd", labels=file, stage=stop)
    assert 10 <= len(file.read_text().splitlines()) < 24
    train_distill(session(), data, config, DECODE, tmp_path / "kd", labels=file, resume=True)
    lines = file.read_text().splitlines()
    assert len(set(lines)) == len(lines) == 24

    def refuse(*args: Any, **settings: Any) -> None:
        raise AssertionError("the LLM was asked again")

    with monkeypatch.context() as without:
        without.setattr("select_to_think.training.labels.along", refuse)
        for rank in (2, 8):
            train_distill(
                session(), data, replace(config, lora_rank=rank), DECODE, tmp_path / f"rank-{rank}", labels=file
            )
        with pytest.raises(AssertionError, match="asked again"):
            train_distill(session(), data, replace(config, llm_top_k=3), DECODE, tmp_path / "asks", labels=file)
    assert file.read_text().splitlines() == lines
    train_distill(session(), data, replace(config, llm_top_k=4), DECODE, tmp_path / "fewer", labels=file)
    assert len(file.read_text().splitlines()) == 48
    label = json.loads(lines[0])
    assert len(label["ids"]) == len(label["logprobs"]) <= 8 and {len(row) for row in label["ids"]} == {5}
    for row in label["logprobs"]:
        assert row == sorted(row, reverse=True)


def test_the_answers_can_be_read(tmp_path: Path) -> None:
    pair, file = session(), tmp_path / "completions.jsonl"
    data = make_trajectories(24)
    train_distill(pair, data, replace(QUICK, kind="sft"), DECODE, tmp_path / "a", completions=file)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(records) == 24 and {"id", "prompt", "completion"} == set(records[0])
    for record in records[:3]:
        prompt = next(each.prompt_ids for each in data if each.id == record["id"])
        assert record["prompt"].split() == [f"w{token}" for token in prompt]
        assert record["completion"] == pair.text(greedy_answer(pair, prompt))
    assert "completion" not in (tmp_path / "a" / "distill.json").read_text()
