"""Training at real size: no logits of a whole batch, activation checkpointing, and what memory it will need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from select_to_think.contexts.packed import checkpointed
from select_to_think.structures import S2TError
from select_to_think.training import losses
from select_to_think.training.distill import Answer
from select_to_think.training.distill import collate as collate_answers
from select_to_think.training.groups import collate, make_examples
from select_to_think.training.losses import by_rows, choice_loss, in_rows, language_kl
from select_to_think.training.memory import predict
from select_to_think.training.module import AdapterModule, DistillModule, ScorerModule
from select_to_think.training.scorer import train_scorer
from select_to_think.training.settings import DistillConfig, ScorerConfig
from tiny import tiny_model
from training_fixtures import loaded, make_trajectories, shake

VOCABULARY = 90  # no other width of the tiny models
VOCABULARIES = ((VOCABULARY,), (VOCABULARY + 1,))
MODES = ("coupled", "proposer", "activated")


class WidestLogits(TorchDispatchMode):
    """The most rows of a tensor whose last axis is the vocabulary, but for the transposed head itself."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if (
                isinstance(each, torch.Tensor)
                and each.shape[-1:] in VOCABULARIES
                and func is not torch.ops.aten.t.default
            ):
                self.rows = max(self.rows, each.numel() // each.shape[-1])
        return out


def scorer_and_batch(arch: str = "qwen2", **settings: Any) -> tuple[ScorerModule, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    made = ScorerModule(
        tiny_model(arch, vocab=VOCABULARY, scale=2.0), ScorerConfig(lora_rank=3, bins=5, **settings), [60, 61]
    )
    shake(made)
    return made, collate(make_examples(make_trajectories(5)), whole=made.whole)


def distiller_and_batch(kind: Any) -> tuple[DistillModule, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    config = DistillConfig(kind=kind, lora_rank=3)
    slm, llm = (tiny_model("qwen2", vocab=VOCABULARY + n, seed=n) for n in (0, 1))
    made = DistillModule(slm, config, [60, 61, VOCABULARY], llm)
    shake(made)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(6, 60, (n,), generator=generator).numpy() for n in (12, 9, 14)]
    return made, collate_answers([Answer(str(len(each)), each, 3) for each in rows])


def total(out: dict[str, torch.Tensor]) -> torch.Tensor:
    parts = [value.sum() for name, value in out.items() if name not in ("logits", "agree", "rows")]
    return torch.stack(parts).sum()


def gradients(module: AdapterModule, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    total(module(**batch)).backward()
    found = {name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None}
    module.zero_grad()
    return found


@pytest.mark.parametrize(
    ("what", "kind"), [("scorer", "bins"), ("scorer", "anchored"), ("distill", "kd"), ("distill", "sft")]
)
def test_logits_of_a_batch_never_exist(what: str, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows at a time give what all rows at once give, in loss and gradient."""
    module, batch = scorer_and_batch(mode="coupled", score=kind) if what == "scorer" else distiller_and_batch(kind)
    expected, whole = total(module(**batch)).item(), gradients(module, batch)
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 4 * VOCABULARY)
    with WidestLogits() as seen:
        loss = total(module(**batch))
        loss.backward()
    assert 0 < seen.rows <= 4
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert whole
    for name, each in module.named_parameters():
        if name in whole:
            scale = whole[name].abs().max().item()
            torch.testing.assert_close(each.grad, whole[name], atol=1e-5 * max(1.0, scale), rtol=1e-4)
    module.zero_grad()
    with WidestLogits() as seen, torch.no_grad():
        assert total(module(**batch)).item() == pytest.approx(expected, rel=1e-5)
    assert 0 < seen.rows <= 4


def test_row_functions_equal_the_plain_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 3 * VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    head, base = (torch.randn(VOCABULARY, 8, generator=generator) for _ in range(2))
    states, others = (torch.randn(11, 8, generator=generator) for _ in range(2))
    weights = torch.randn(11, generator=generator)
    forbidden = torch.tensor([0, 5])

    def divergence(some: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nats = language_kl(some @ head.T, other @ base.T, forbidden)
        return nats, nats > 1

    def chosen(some: torch.Tensor) -> torch.Tensor:
        return (some @ head.T).log_softmax(-1)[:, :4]

    found, plain = states.clone().requires_grad_(), states.clone().requires_grad_()
    nats, above = by_rows(divergence, VOCABULARY, found, others)
    expected, expected_above = divergence(plain, others)
    assert torch.equal(above, expected_above) and not above.requires_grad
    loss = (nats * weights).sum() + choice_loss(in_rows(chosen, VOCABULARY, found), chosen(states).roll(1, -1))
    plain_loss = (expected * weights).sum() + choice_loss(chosen(plain), chosen(states).roll(1, -1))
    loss.backward()
    plain_loss.backward()
    torch.testing.assert_close(loss, plain_loss)
    torch.testing.assert_close(found.grad, plain.grad)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arch", ["qwen2", "gemma3", "phi3"])
def test_checkpointing_changes_no_gradient_and_leaves_the_model_as_it_was(arch: str, mode: Any) -> None:
    module, batch = scorer_and_batch(arch, mode=mode)
    expected = gradients(module, batch)
    layers = [len(vars(each)) for each in module.slm.modules()]
    calls: list[str] = []
    name = next(name for name, _ in module.slm.named_modules() if name.endswith("1.mlp"))
    hook = module.slm.get_submodule(name).register_forward_pre_hook(lambda *_: calls.append(name))
    total(module(**batch)).backward()
    plain = len(calls)
    module.zero_grad()
    with checkpointed(module.slm):
        found = gradients(module, batch)
    hook.remove()
    assert len(calls) - plain == plain + 1, "the layer was not computed again"
    for name, each in expected.items():
        torch.testing.assert_close(found[name], each)
    assert [len(vars(each)) for each in module.slm.modules()] == layers


def test_the_predicted_memory_is_what_a_step_takes() -> None:
    """Measured in a process of its own: resident memory before the step, and its high-water mark after it."""
    cases = ("activated", "coupled", "coupled+checkpointing", "kd", "proposer+bf16")
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": os.pathsep.join(sys.path)}
    script = Path(__file__).with_name("measure_training_memory.py")
    done = subprocess.run(
        [sys.executable, str(script), *cases], env=environment, capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["case"] for row in rows] == list(cases)
    for row in rows:
        assert row["used_bytes"] > 50e6, "too small to be told from what else a process does"
        assert 0.85 < row["step_bytes"] / row["used_bytes"] < 1.15, row
    by_case = {row["case"]: row["used_bytes"] for row in rows}
    assert by_case["coupled+checkpointing"] < 0.7 * by_case["coupled"]


def test_a_training_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, config = make_trajectories(24), ScorerConfig(lora_rank=2, epochs=1.0, batch_trajectories=8)
    summary = train_scorer(loaded(), data, config, tmp_path / "fits")
    memory = summary["memory"]
    assert memory["needed_bytes"] == memory["states_bytes"] + memory["step_bytes"] > 0
    assert json.loads((tmp_path / "fits" / "scorer.json").read_text())["training"]["memory"] == memory
    monkeypatch.setattr("select_to_think.training.memory.free_bytes", lambda device: memory["needed_bytes"] - 1)
    with pytest.raises(S2TError, match="lower --micro-batch"):
        train_scorer(loaded(), data, config, tmp_path / "too-large")
    assert [path.name for path in tmp_path.iterdir()] == ["fits"]
    train_scorer(loaded(), data, replace(config, micro_batch=1), tmp_path / "smaller")


def test_a_prediction_leaves_no_trace() -> None:
    module, batch = scorer_and_batch(mode="coupled")
    first = predict(module, batch, total, device=torch.device("cpu"))
    assert first is not None and first == predict(module, batch, total, device=torch.device("cpu"))
    assert all(each.grad is None for each in module.parameters())
    assert all(type(each) is torch.nn.Parameter for each in module.parameters())
    assert gradients(module, batch)


def test_a_model_that_looks_into_its_tensors_is_not_predicted() -> None:
    module, batch = scorer_and_batch(mode="proposer")

    def looks(out: dict[str, torch.Tensor]) -> torch.Tensor:
        return total(out) * total(out).item()

    assert predict(module, batch, looks, device=torch.device("cpu")) is None  # type: ignore[arg-type]
