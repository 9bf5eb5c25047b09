"""Law: packed training = one row per candidate, in loss and in gradient."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from select_to_think.contexts.packed import Leaves, base_leaf_forward, packed_forward
from select_to_think.training.groups import collate, make_examples
from select_to_think.training.module import ScorerModule
from select_to_think.training.settings import ScorerConfig
from tiny import ARCHITECTURES, tiny_model
from training_fixtures import make_trajectories, shake

MODES = ("coupled", "proposer", "activated")
SCORERS = [*product(MODES, ("bins", "anchored")), ("proposer", "adapted")]


def module(arch: str, **settings: Any) -> ScorerModule:
    model_settings = {key: settings.pop(key) for key in ("tie", "attention") if key in settings}
    torch.manual_seed(1)
    config = ScorerConfig(lora_rank=3, lora_alpha=3.0, bins=5, **settings)
    made = ScorerModule(tiny_model(arch, scale=2.0, **model_settings), config, [60, 61])
    shake(made)
    return made.double()  # the hidden states; scores are computed in fp32


def total(scorer: ScorerModule, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    out = scorer(**batch)
    return sum(value for name, value in out.items() if name != "logits") / 10  # type: ignore[return-value]


def naive_hidden(scorer: ScorerModule, prefix: list[int], candidate: int) -> torch.Tensor:
    """The definition, through `transformers` alone: (H,) after the final norm."""
    model, switch = scorer.slm, scorer.switch
    if scorer.settings.mode != "activated":
        return model(torch.tensor([[*prefix, candidate]]), output_hidden_states=True).hidden_states[-1][0, -1]
    switch.set_active(False)
    with torch.no_grad():
        cache = model(torch.tensor([prefix]), use_cache=True).past_key_values
    switch.set_active(True)
    out = model(torch.tensor([[candidate]]), past_key_values=cache, output_hidden_states=True)
    return out.hidden_states[-1][0, -1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_leaves_equal_the_definition(arch: str, mode: Any) -> None:
    scorer = module(arch, mode=mode)
    examples = make_examples(make_trajectories(3))
    batch = collate(examples, whole=False)
    leaves = Leaves(*(batch[k] for k in ("prefix_ids", "leaf_ids", "leaf_positions", "leaf_places")))
    if mode == "activated":
        hidden = base_leaf_forward(scorer.slm, scorer.switch, leaves)
    else:
        hidden, _ = packed_forward(scorer.slm, leaves)
    expected = [
        naive_hidden(scorer, each.tokens[:position].tolist(), candidate)
        for each in examples
        for position, group in zip(each.positions.tolist(), each.candidates.tolist(), strict=True)
        for candidate in group
    ]
    torch.testing.assert_close(hidden, torch.stack(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("mode", "score"), SCORERS)
@pytest.mark.parametrize("arch", ["qwen2", "gemma3", "mistral"])
@pytest.mark.parametrize("tie", [False, True])
def test_loss_and_gradients_equal_plain(arch: str, mode: Any, score: Any, tie: bool) -> None:
    gradients, losses = [], []
    for packed in (True, False):
        scorer = module(arch, tie=tie, mode=mode, score=score, packed=packed, group_kl_weight=0.5, lm_kl_weight=0.7)
        loss = total(scorer, collate(make_examples(make_trajectories(4)), whole=scorer.whole))
        loss.backward()
        losses.append(loss.item())
        gradients.append({n: p.grad for n, p in scorer.named_parameters() if p.requires_grad})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_neighbours_and_eager_attention_change_nothing(mode: Any) -> None:
    examples = make_examples(make_trajectories(4))
    together = module("qwen3", mode=mode)
    alone = module("qwen3", mode=mode, attention="eager")
    logits = together(**collate(examples, whole=together.whole))["logits"]
    apart = torch.cat([alone(**collate([each], whole=alone.whole))["logits"] for each in examples])
    torch.testing.assert_close(logits, apart, atol=2e-5, rtol=1e-4)


def test_activated_gradients_do_not_pass_through_the_prefix() -> None:
    scorer = module("llama", mode="activated")
    examples = make_examples(make_trajectories(1, groups=1))
    loss = total(scorer, collate(examples, whole=False))
    before = [p.requires_grad for p in scorer.slm.parameters()]
    loss.backward()
    scorer.switch.set_active(False)
    assert all(p.grad is None for p in scorer.slm.parameters())
    assert any(before)


def test_the_adapted_score_is_anchored_where_the_adapter_has_read_the_prefix() -> None:
    scorer = module("qwen2", mode="proposer", score="adapted")
    examples = make_examples(make_trajectories(3))
    logits = scorer(**collate(examples, whole=False))["logits"]
    ordinary = torch.ones(64, dtype=torch.bool)
    ordinary[[60, 61]] = False
    expected = []
    for each in examples:
        for position, group in zip(each.positions.tolist(), each.candidates.tolist(), strict=True):
            prefix = each.tokens[:position].tolist()
            seen = scorer.slm(torch.tensor([prefix])).logits[0, -1]
            logprobs = seen.masked_fill(~ordinary, -torch.inf).log_softmax(-1)
            hidden = torch.stack([naive_hidden(scorer, prefix, candidate) for candidate in group])
            bins = (hidden.float() @ scorer.bin_rows.float().T).softmax(-1) @ torch.linspace(0, 1, 5)
            expected.append(bins / 0.1 + scorer.anchor * logprobs[group])
    torch.testing.assert_close(logits.double(), torch.stack(expected).double(), atol=1e-4, rtol=1e-4)
