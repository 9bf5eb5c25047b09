"""Tensor mathematics against plain Python and the full distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from select_to_think import probability


def distributions(seed: int, size: int = 50, sharpness: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple((torch.randn(size, generator=generator).double() * sharpness).log_softmax(-1) for _ in range(2))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 49))
def test_bucketed_kl_is_a_lower_bound_and_grows_with_the_support(seed: int, support: int) -> None:
    llm, slm = distributions(seed)
    full = float((llm.exp() * (llm - slm)).sum())
    order = slm.argsort(descending=True)
    small, large = (float(probability.bucketed_kl_nats(llm[order[:k]], slm[order[:k]])) for k in (support, 50))
    assert -1e-6 <= small <= full + 1e-5
    assert large == pytest.approx(full, abs=1e-4)


def test_bucketed_kl_by_hand() -> None:
    llm, slm = torch.tensor([0.5, 0.2]).log(), torch.tensor([0.6, 0.3]).log()
    expected = 0.5 * math.log(0.5 / 0.6) + 0.2 * math.log(0.2 / 0.3) + 0.3 * math.log(0.3 / 0.1)
    assert float(probability.bucketed_kl_nats(llm, slm)) == pytest.approx(expected, abs=1e-6)


def test_a_certain_model_has_no_entropy_and_kl_survives_zeros() -> None:
    certain = torch.tensor([0.0, -torch.inf, -torch.inf])
    assert [float(x) for x in probability.totals(certain, certain[0], entropy=True)] == [0, 0]
    assert math.isfinite(float(probability.bucketed_kl_nats(certain, torch.tensor([0.5, 0.25, 0.25]).log())))


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_totals_are_the_plain_sums_also_with_forbidden_tokens(scale: float) -> None:
    logits = torch.randn(5, 3000, generator=torch.Generator().manual_seed(3)) * scale + 40
    logits[:, [0, 7, 2999]] = -torch.inf
    total, entropy = probability.totals(logits, logits.amax(-1), entropy=True)
    p = logits.double().softmax(-1)
    torch.testing.assert_close(total, logits.double().logsumexp(-1).float(), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(entropy, torch.special.entr(p).sum(-1).float(), atol=2e-5, rtol=0)
    alone, _ = probability.totals(logits, logits.amax(-1), entropy=False)
    assert torch.equal(alone, total)


@pytest.mark.parametrize("k", [1, 2, 8, 64, 600])
@pytest.mark.parametrize("vocabulary", [700, 16384, 40_009])
def test_top_tokens_are_those_of_a_stable_sort_whatever_is_tied(k: int, vocabulary: int) -> None:
    """Among equals the lowest id, in large and small vocabularies, so that top-1 is the first of the top-8."""
    generator = torch.Generator().manual_seed(k)
    random = torch.randn(4, vocabulary, generator=generator)
    cases = {
        "random": random,
        "bfloat16": random.bfloat16().float(),
        "four numbers": torch.randint(-1, 3, (4, vocabulary), generator=generator).float(),
        "zeros of both signs": torch.where(random > 0, 0.0, -0.0),
        "mostly impossible": random.masked_fill(torch.rand(4, vocabulary, generator=generator) < 0.999, -torch.inf),
        "impossible": torch.full((4, vocabulary), -torch.inf),
    }
    for name, values in cases.items():
        expected, ids = torch.sort(values, dim=-1, descending=True, stable=True)
        found, found_ids = probability.top_tokens(values, k)
        assert torch.equal(found_ids, ids[:, :k]), name
        assert torch.equal(found, expected[:, :k]), name


def test_expected_bin_of_zero_rows_is_the_middle_and_of_a_sharp_row_its_value() -> None:
    hidden = torch.randn(3, 8)
    assert probability.expected_bin(hidden, torch.zeros(5, 8)).tolist() == pytest.approx([0.5] * 3)
    rows = torch.zeros(5, 8)
    rows[3] = 1000 * hidden[0]
    assert float(probability.expected_bin(hidden[0], rows)) == pytest.approx(0.75)


def plain_draw(logprobs, uniform, temperature, top_p, top_k, min_p) -> int:
    top_k = int(top_k)
    p = (logprobs.double() / temperature).softmax(-1)
    ids = sorted(range(len(p)), key=lambda i: (-float(p[i]), i))
    if top_k:
        ids = ids[:top_k]
    total = sum(float(p[i]) for i in ids)
    kept, mass = [], 0.0
    for i in ids:
        if kept and (mass >= top_p < 1 or float(p[i]) < min_p * float(p[ids[0]])):
            break
        kept.append(i)
        mass += float(p[i]) / total
    target = uniform * sum(float(p[i]) for i in kept)
    for i in kept:
        target -= float(p[i])
        if target < 0:
            return i
    return kept[-1]


@pytest.mark.parametrize("vocabulary", [40, 3000])
@pytest.mark.parametrize("top_k", [0, 7, 2000])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.01])
def test_what_is_drawn_among_a_few_tokens_is_the_plain_definition_or_not_found(
    vocabulary: int, top_k: int, top_p: float, min_p: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = 24
    logprobs = (torch.randn(rows, vocabulary, generator=generator) * 2).log_softmax(-1)
    uniform = torch.rand(rows, generator=generator)
    temperature = torch.linspace(0.3, 1.5, rows)
    settings = torch.stack([uniform, temperature, *(torch.full((rows,), v) for v in (top_p, top_k, min_p))]).double()
    expected = torch.tensor([plain_draw(logprobs[i], *settings[:, i].tolist()) for i in range(rows)])
    hits = []
    for head in (4, 64, 1024, vocabulary):
        tokens, found = probability.draw(logprobs, settings, head)
        assert torch.equal(tokens[found], expected[found])
        hits.append(int(found.sum()))
    assert hits == sorted(hits) and hits[-1] == rows
    assert hits[2] or top_k > 1024, "nothing is found among 1024 tokens"
