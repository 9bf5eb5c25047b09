"""S2T-Local's three scorer modes against their plain definitions, with a random adapter."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from transformers import DynamicCache

from drive import adapter_of, backends_of, results_of
from reference import next_logprobs
from select_to_think.config import RuntimeConfig
from select_to_think.models.adapter import AdapterSwitch, inject_adapter
from select_to_think.policies.base import Limits
from select_to_think.policies.greedy import Greedy
from select_to_think.policies.select import Select
from select_to_think.selectors.scorer import ScorerSelector
from select_to_think.structures import Role
from select_to_think.triggers.random import coin
from tiny import tiny_model

LIMITS = Limits(frozenset({2}), 24)
PROMPTS = [list(range(3, 3 + n)) for n in (3, 17, 1, 9)]
K = 6
BINS = 5
ARCHITECTURES = ("qwen2", "gemma3", "llama")
SCORERS = [*product(("coupled", "proposer", "activated"), ("bins", "anchored")), ("proposer", "adapted")]


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
    backends = backends_of({"slm": model})
    backends["slm"].add_adapter("scorer", adapter_of(switch), rows)
    adapted = Role("slm", "scorer")
    roles = {"slm": adapted} if mode == "coupled" else {"slm": Role("slm"), "scorer": adapted}
    runs = (policy.run(p, f"seed/{i}") for i, p in enumerate(PROMPTS))
    return results_of(backends, runs, rows=max_rows, roles=roles)


def local(mode: str, budget: float, score: str = "anchored") -> Select:
    selector = ScorerSelector(mode, score, 0.1, 0.7)
    return Select(LIMITS, coin(1 - budget), selector, K)


@pytest.mark.parametrize(("mode", "score"), SCORERS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_scores_are_those_of_one_forward_per_candidate(arch: str, mode: str, score: str) -> None:
    model, switch, rows = adapted_model(arch)
    results = decode(model, switch, rows, mode, local(mode, 0.4, score))
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
            if score == "adapted":
                switch.set_active(True)
                anchors = next_logprobs(model, prefix)
                switch.set_active(False)
            else:
                anchors = proposal
            if score != "bins":
                expected = [e / 0.1 + 0.7 * float(anchors[c]) for e, c in zip(expected, step.candidates, strict=True)]
            assert list(step.scores) == pytest.approx(expected, abs=1e-4)
            assert step.token == step.candidates[step.scores.index(max(step.scores))] and step.chooser == "scorer"
    assert fired > 10


@pytest.mark.parametrize("mode", ["proposer", "activated"])
def test_a_trigger_that_never_fires_is_slm_greedy(mode: str) -> None:
    model, switch, rows = adapted_model("qwen2")
    plain = tiny_model("qwen2")
    results = decode(model, switch, rows, mode, local(mode, -math.inf))
    expected = results_of(backends_of({"slm": plain}), (Greedy(LIMITS).run(p, "") for p in PROMPTS), rows=1)
    assert [r.tokens for r in results] == [r.tokens for r in expected]


@pytest.mark.parametrize(("mode", "score"), SCORERS)
@pytest.mark.parametrize("budget", [0.1, 0.5, 1.0])
def test_a_triggered_step_adds_no_forward(mode: str, score: str, budget: float) -> None:
    """As many forwards as tokens; one more where the last token of all was chosen, because nothing follows it."""
    model, switch, rows = adapted_model("qwen2")
    results = decode(model, switch, rows, mode, local(mode, budget, score))
    assert any(result.fired_count for result in results)
    for result in results:
        assert result.counts.slm_forwards == len(result.tokens) + result.steps[-1].fired


def test_leaves_that_only_score_give_the_same_tokens() -> None:
    model, switch, rows = adapted_model("qwen2")
    for mode, score in (("proposer", "anchored"), ("proposer", "adapted"), ("activated", "anchored")):
        ahead = decode(model, switch, rows, mode, local(mode, 0.4, score))
        backends = backends_of({"slm": model}, config=RuntimeConfig(kv_memory_gib=0.02, leaf_tokens=0))
        backends["slm"].add_adapter("scorer", adapter_of(switch), rows)
        roles = {"slm": Role("slm"), "scorer": Role("slm", "scorer")}
        runs = (local(mode, 0.4, score).run(p, f"seed/{i}") for i, p in enumerate(PROMPTS))
        later = results_of(backends, runs, roles=roles)
        assert [r.tokens for r in later] == [r.tokens for r in ahead]
        assert sum(r.counts.slm_forwards for r in later) > sum(r.counts.slm_forwards for r in ahead)


@pytest.mark.parametrize("score", ["anchored", "adapted"])
def test_the_proposers_adapter_context_is_extended_lazily(score: str) -> None:
    model, switch, rows = adapted_model("qwen2")
    results = decode(model, switch, rows, "proposer", local("proposer", 0.3, score), max_rows=1)
    for prompt, result in zip(PROMPTS, results, strict=True):
        fired = {i for i, step in enumerate(result.steps) if step.fired}
        steps = len(result.tokens)
        looked_ahead = [i for i in fired if i + 1 < LIMITS.max_new_tokens]
        proposed = len(prompt) + len(set(range(steps - 1)) - fired) + K * len(looked_ahead)
        scored = len(prompt) + max(fired) + K * len(fired) if fired else 0
        assert result.counts.slm_tokens_processed == proposed + scored
