"""The statistics against brute force and closed forms."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from select_to_think.config import PriceConfig
from select_to_think.evaluation import statistics
from select_to_think.structures import Counts, S2TError


def test_standard_error_is_that_of_the_sample():
    assert statistics.over_seeds([[1, 0, 0, 1]]) == (0.5, pytest.approx(math.sqrt(0.5 * 0.5 * 4 / 3 / 4)))
    assert statistics.over_seeds([[1]]) == (1.0, None)


def test_no_outcomes_are_refused():
    with pytest.raises(S2TError, match="at least one"):
        statistics.over_seeds([[]])
    with pytest.raises(S2TError, match="at least one"):
        statistics.paired_difference([], [])


@settings(deadline=None)  # the first example imports scipy
@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_sums_the_tail(wins, losses):
    n = wins + losses
    extreme = [math.comb(n, i) for i in range(n + 1) if abs(i - n / 2) >= abs(wins - n / 2)]
    assert statistics.mcnemar_p(wins, losses) == pytest.approx(min(1.0, sum(extreme) / 2**n))


def test_bootstrap_equals_the_full_enumeration():
    values = np.array([1.0, 0.0, -1.0, 1.0])
    means = [np.mean(draw) for draw in itertools.product(values, repeat=4)]
    found = statistics.paired_difference(values, np.zeros(4), resamples=40_000)
    exact = np.quantile(means, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(exact), abs=1e-9)


def test_interval_covers_the_truth():
    random = np.random.default_rng(3)
    covered = 0
    for seed in range(200):
        baseline = random.random(120) < 0.5
        method = np.where(random.random(120) < 0.2, random.random(120) < 0.9, baseline)
        found = statistics.paired_difference(method, baseline, resamples=400, seed=seed)
        covered += found.low <= 0.2 * 0.4 <= found.high
    assert 180 <= covered <= 199


def test_pairing_is_narrower_than_two_intervals():
    random = np.random.default_rng(0)
    baseline = random.random(400) < 0.6
    method = baseline.copy()
    method[np.flatnonzero(~baseline)[:12]] = True
    found = statistics.paired_difference(method, baseline)
    assert (found.wins, found.losses, found.n) == (12, 0, 400)
    assert found.difference == pytest.approx(0.03)
    assert 0 < found.low < 0.03 < found.high < 0.06
    assert found.mcnemar_p == pytest.approx(2 * 0.5**12)
    assert found == statistics.paired_difference(method, baseline)


def test_different_items_cannot_be_paired():
    with pytest.raises(S2TError, match="same items"):
        statistics.paired_difference([1, 0], [1])


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_the_error_holds_for_other_items_and_other_seeds(seeds):
    """1.96 errors on each side hold the accuracy over all items about as often as they say."""
    random = np.random.default_rng(0)
    rates = random.beta(0.6, 0.4, size=(400, 150))  # of 400 evaluations: how often each of 150 items is right
    runs = random.random((seeds, *rates.shape)) < rates
    found = [statistics.over_seeds(list(runs[:, i])) for i in range(len(rates))]
    held = np.mean([abs(mean - 0.6) <= 1.96 * error for mean, error in found])
    assert 0.92 < held < 0.98


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_method_never_differs_from_itself(outcomes):
    found = statistics.paired_difference(outcomes, outcomes, resamples=50)
    assert (found.difference, found.low, found.high, found.mcnemar_p) == (0.0, 0.0, 0.0, 1.0)


def test_seeds_are_averaged_and_keep_their_items():
    runs = [[1, 0, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    error = np.std([1, 1 / 3, 2 / 3, 1], ddof=1) / math.sqrt(4)
    assert statistics.over_seeds(runs) == (pytest.approx(0.75), pytest.approx(error))
    assert statistics.paired_difference(np.mean(runs, axis=0), [1, 0, 0, 1]).mcnemar_p is None
    for wrong in ([[1], [1, 0]], []):
        with pytest.raises(S2TError, match="same items"):
            statistics.over_seeds(wrong)


@pytest.mark.parametrize("arch", ["qwen2", "qwen3", "llama", "gemma3"])
def test_weights_match_the_real_modules(arch):
    torch = pytest.importorskip("torch")
    from tiny import tiny_model

    model = tiny_model(arch)
    model = getattr(model, "model", model) if not hasattr(model, "config") else model
    real = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert statistics.weights_and_width(model.config)[0] == real


def test_flops_and_money():
    shape = {
        "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 16, "vocab_size": 10,
    }  # fmt: skip
    config = SimpleNamespace(**shape)
    weights = 2 * (8 * 4 * (2 * 2 + 2 * 1) + 3 * 8 * 16) + 80
    assert statistics.flops(config, 5) == 5 * 2 * weights
    assert statistics.flops(config, 5, context=7.0) == 5 * (2 * weights + 4 * 2 * 8 * 7)
    experts = SimpleNamespace(**shape, num_experts_per_tok=2, moe_intermediate_size=4)
    assert statistics.weights_and_width(experts)[0] == 2 * (192 + 3 * 8 * 4 * 2) + 80
    with pytest.raises(S2TError, match="hidden_size"):
        statistics.flops(SimpleNamespace(), 1)
    prices = PriceConfig(price_llm_read=1.0, price_llm_written=4.0, price_slm=0.1)
    cost = Counts(slm_tokens_processed=1_000_000, llm_tokens_processed=2_000_000, llm_tokens_generated=500_000)
    assert statistics.money(cost, prices) == pytest.approx(0.1 + 2.0 + 2.0)
    assert statistics.money(cost, PriceConfig()) is None
    cost.mentor_tokens_rejected = 250_000  # written by the LLM all the same
    assert statistics.money(cost, prices) == pytest.approx(0.1 + 2.0 + 3.0)
