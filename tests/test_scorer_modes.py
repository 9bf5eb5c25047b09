"""S2T-Local's three scorer modes against their plain definitions, with a random adapter."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import DynamicCache

from reference import next_logprobs
from select_to_think.contexts.transformers_backend import TransformersBackend
from select_to_think.engine import Engine
from select_to_think.models.adapter import AdapterSwitch, inject_adapter
from select_to_think.policies.base import Limits
from select_to_think.policies.greedy import Greedy
from select_to_think.policies.select import Select
from select_to_think.selectors.scorer import ScorerSelector
from select_to_think.triggers.random import RandomTrigger
from tiny import tiny_model

LIMITS = Limits(frozenset({2}), 24)
PROMPTS = [list(range(3, 3 + n)) for n in (3, 17, 1, 9)]
K = 6
BINS = 5
ARCHITECTURES = ("qwen2", "gemma3", "llama")


def adapted_model(arch: str) -> tuple[torch.nn.Module, AdapterSwitch, torch.Tensor]:
    model = tiny_model(arch)
    switch = inject_adapter(model, 4, 8.0)
    torch.manual_seed(5)
    with torch.no_grad():
        for _, weight in switch.weights():
            weight.normal_(0, 0.3)
    return model, switch, torch.randn(BINS, 32)


def expected_bins(hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return (hidden @ rows.T).softmax(-1) @ torch.linspace(0, 1, BINS)


def plain_scores(model, switch, rows, mode: str, prefix: list[int], candidates: tuple[int, ...]) -> list[float]:
    """One whole-prefix forward per candidate."""
    scores = []
    with torch.no_grad():
        for candidate in candidates:
            if mode == "activated":
                cache = DynamicCache(config=model.config)
                switch.set_active(False)
                model(torch.tensor([prefix]), past_key_values=cache, use_cache=True)
                switch.set_active(True)
                out = model.base_model(torch.tensor([[candidate]]), past_key_values=cache, use_cache=True)
            else:
                switch.set_active(True)
                out = model.base_model(torch.tensor([[*prefix, candidate]]))
            switch.set_active(False)
            scores.append(float(expected_bins(out.last_hidden_state[0, -1], rows)))
    return scores


def decode(model, switch, rows, mode: str, policy, max_rows: int = 3):
    backends = {"slm": TransformersBackend(model, switch=switch, adapted="always" if mode == "coupled" else "never")}
    if mode == "activated":
        backends = {"slm": TransformersBackend(model, switch=switch, adapted="leaves", bin_rows=rows)}
    if mode == "coupled":
        backends = {"slm": TransformersBackend(model, switch=switch, adapted="always", bin_rows=rows)}
    if mode == "proposer":
        backends["scorer"] = TransformersBackend(model, switch=switch, adapted="always", bin_rows=rows)
    results = dict(Engine(backends, max_rows).run((i, policy.run(p, f"seed/{i}")) for i, p in enumerate(PROMPTS)))
    switch.set_active(False)
    return [results[i] for i in range(len(PROMPTS))]


def local(mode: str, budget: float, anchored: bool) -> Select:
    selector = ScorerSelector("scorer" if mode == "proposer" else "slm", anchored, 0.1, 0.7)
    return Select(LIMITS, RandomTrigger(1 - budget), selector, K)


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("mode", ["coupled", "proposer", "activated"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_scores_are_those_of_one_forward_per_candidate(arch: str, mode: str, anchored: bool) -> None:
    model, switch, rows = adapted_model(arch)
    results = decode(model, switch, rows, mode, local(mode, 0.4, anchored))
    fired = 0
    for prompt, result in zip(PROMPTS, results, strict=True):
        for i, step in enumerate(result.steps):
            prefix = [*prompt, *result.tokens[:i]]
            switch.set_active(mode == "coupled")
            proposal = next_logprobs(model, prefix)
            switch.set_active(False)
            assert step.greedy_token == int(proposal.argmax())
            if not step.fired:
                assert step.token == step.greedy_token
                continue
            fired += 1
            assert list(step.candidates) == proposal.topk(K).indices.tolist()
            expected = plain_scores(model, switch, rows, mode, prefix, step.candidates)
            if anchored:
                expected = [e / 0.1 + 0.7 * float(proposal[c]) for e, c in zip(expected, step.candidates, strict=True)]
            assert list(step.scores) == pytest.approx(expected, abs=1e-4)
            assert step.token == step.candidates[step.scores.index(max(step.scores))] and step.chooser == "scorer"
    assert fired > 10


@pytest.mark.parametrize("mode", ["proposer", "activated"])
def test_a_trigger_that_never_fires_is_slm_greedy(mode: str) -> None:
    model, switch, rows = adapted_model("qwen2")
    plain = tiny_model("qwen2")
    results = decode(model, switch, rows, mode, local(mode, -math.inf, True))
    expected = dict(
        Engine({"slm": TransformersBackend(plain)}, 1).run(
            (i, Greedy(LIMITS).run(p, "")) for i, p in enumerate(PROMPTS)
        )
    )
    assert [r.tokens for r in results] == [expected[i].tokens for i in range(len(PROMPTS))]


def test_the_proposers_adapter_context_is_extended_lazily() -> None:
    model, switch, rows = adapted_model("qwen2")
    results = decode(model, switch, rows, "proposer", local("proposer", 0.3, True), max_rows=1)
    for prompt, result in zip(PROMPTS, results, strict=True):
        last = max((i for i, step in enumerate(result.steps) if step.fired), default=None)
        steps = len(result.tokens)
        scored = 0 if last is None else len(prompt) + last + K * result.fired_count
        assert result.counts.slm_tokens_processed == len(prompt) + steps - 1 + scored
        assert result.counts.slm_forwards == steps + result.fired_count


def test_merged_coupled_equals_switched_coupled() -> None:
    model, switch, rows = adapted_model("llama")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    switched = decode(model, switch, rows, "coupled", local("coupled", 0.4, False))
    switch.merge()
    merged = {"slm": TransformersBackend(model, bin_rows=rows)}
    policy = local("coupled", 0.4, False)
    results = dict(Engine(merged, 2).run((i, policy.run(p, f"seed/{i}")) for i, p in enumerate(PROMPTS)))
    switch.unmerge()
    assert [results[i].tokens for i in range(len(PROMPTS))] == [r.tokens for r in switched]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
