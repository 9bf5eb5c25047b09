"""The losses against their naive formulas."""

from __future__ import annotations

import math

import pytest
import torch

from select_to_think.training.losses import choice_logits, choice_loss, group_kl, language_kl


def test_scores_in_the_unit_interval_cap_cross_entropy_at_temperature_one() -> None:
    """Sixteen candidates, the right one at 1 and all others at 0: the best that T = 1 allows is 1.875 nats."""
    best = torch.zeros(1, 16)
    best[0, 3] = 1.0
    llm = best.clone()
    at_one, at_tenth = (choice_loss(choice_logits("bins", best, torch.zeros(1, 16), t, 0.0), llm) for t in (1.0, 0.1))
    assert at_one.item() == pytest.approx(math.log(1 + 15 / math.e), abs=1e-6)
    assert at_one.item() == pytest.approx(1.875, abs=1e-3)
    assert at_tenth.item() < 1e-3
    random = torch.rand(1000, 16, generator=torch.Generator().manual_seed(0))
    worst = torch.stack([choice_loss(row[None], row[None]) for row in random]).min()
    assert worst >= at_one


def test_the_anchored_score_starts_at_the_slm() -> None:
    logprobs = torch.tensor([[-0.1, -3.0, -5.0]])
    logits = choice_logits("anchored", torch.full((1, 3), 0.5), logprobs, 0.1, 1.0)
    torch.testing.assert_close(logits.softmax(-1), logprobs.softmax(-1))
    assert torch.equal(choice_logits("bins", torch.full((1, 3), 0.5), logprobs, 0.1, 1.0), torch.full((1, 3), 5.0))


def test_losses_equal_their_naive_forms() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, llm = (torch.randn(5, 4, generator=generator) * 3 for _ in range(2))
    p, q = llm.softmax(-1), logits.softmax(-1)
    torch.testing.assert_close(group_kl(logits, llm), (p * (p / q).log()).sum())
    torch.testing.assert_close(choice_loss(logits, llm), -q[torch.arange(5), llm.argmax(1)].log().sum())


def test_language_kl_leaves_reserved_rows_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 10, generator=generator).requires_grad_()
    base = torch.randn(3, 10, generator=generator)
    forbidden = torch.tensor([2, 9])
    ordinary = [0, 1, 3, 4, 5, 6, 7, 8]
    p, q = base[:, ordinary].softmax(-1), logits[:, ordinary].softmax(-1)
    kl = language_kl(logits, base, forbidden)
    torch.testing.assert_close(kl, (p * (p / q).log()).sum(-1))
    (gradient,) = torch.autograd.grad(kl.sum(), logits)
    assert gradient[:, forbidden].abs().max() == 0
    assert gradient[:, ordinary].abs().min() > 0 and gradient.isfinite().all()
    changed = logits.detach().clone()
    changed[:, forbidden] += 5
    torch.testing.assert_close(language_kl(changed, base, forbidden), kl.detach())
    torch.testing.assert_close(language_kl(base, base, torch.tensor([], dtype=torch.long)), torch.zeros(3))
