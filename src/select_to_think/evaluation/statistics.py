"""The statistics behind a table of results: standard errors, paired differences, seeds, and cost.

Non-goals: reading result files and printing (see `analysis`), and anything that needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from select_to_think.config import PriceConfig
from select_to_think.structures import Counts, S2TError

RESAMPLES = 10_000
_BLOCK = 4_000_000  # drawn indices held at once: bounds the memory of the bootstrap


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Method against baseline on the same items: `difference` = mean(method) - mean(baseline), 95 % interval.

    `wins`: items right with the method and wrong with the baseline; `losses`: the reverse. `mcnemar_p` is exact and
    two-sided, None where the outcomes are not all 0 or 1.
    """

    difference: float
    low: float
    high: float
    wins: int
    losses: int
    n: int
    mcnemar_p: float | None


def paired_difference(
    method: ArrayLike, baseline: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> PairedDifference:
    """Compare two methods on the same items, in the same order.

    The interval is the percentile bootstrap over items: each resample draws n items with replacement and keeps the
    two outcomes of an item together. Same seed, same interval.

    Args:
        method, baseline: (n,) outcomes per item; 0/1, or fractions when an item was answered several times.

    Raises:
        S2TError: different lengths, or no items.
    """
    ours, theirs = np.asarray(method, np.float64), np.asarray(baseline, np.float64)
    if not ours.size == theirs.size > 0:
        raise S2TError(f"a paired comparison needs the same items, at least one: got {ours.size} and {theirs.size}")
    differences = ours - theirs  # (n,)
    random, rows = np.random.default_rng(seed), max(1, _BLOCK // ours.size)
    sizes = [(min(rows, resamples - start), ours.size) for start in range(0, resamples, rows)]
    means = [differences[random.integers(ours.size, size=size)].mean(axis=1) for size in sizes]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    p = mcnemar_p(wins, losses) if np.isin([ours, theirs], (0.0, 1.0)).all() else None
    return PairedDifference(float(differences.mean()), float(low), float(high), wins, losses, ours.size, p)


def mcnemar_p(wins: int, losses: int) -> float:
    """McNemar's exact two-sided p: the binomial test of the discordant pairs against one half; 1 without any."""
    from scipy.stats import binomtest  # slow to import, and reading results does not need it

    return float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def over_seeds(runs: Sequence[ArrayLike]) -> tuple[float, float | None]:
    """The mean of one method's runs that differ by seed, and its standard error; None for a single item.

    Each run is an array of (n,) outcomes over the same items. An item counts with its mean over the runs; the error is
    that over items, sample standard deviation (n - 1) / sqrt(n), and holds what the seed does to each of them. (That of
    the mean over two or three runs would say nothing of the items, and little of the seeds.)
    """
    found = [np.asarray(run, np.float64) for run in runs]
    sizes = {run.size for run in found}
    if len(sizes) != 1 or 0 in sizes:
        raise S2TError("runs that differ by seed must have the same items, at least one")
    values = np.mean(found, axis=0)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else None


def weights_and_width(config: Any) -> tuple[int, int]:
    """What a decoder's forward costs, from its transformers configuration: the weights that multiply every token, and
    the width that attention runs over (layers * heads * head_dim).

    Counts query, key, value and output projections, a gated MLP (three matrices; the active experts only for mixtures
    of experts) and the output head. Biases, norms and the input embedding are left out.
    """
    text = getattr(config, "text_config", None) or config
    try:
        hidden, layers, heads = text.hidden_size, text.num_hidden_layers, text.num_attention_heads
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        head = getattr(text, "head_dim", None) or hidden // heads
        experts = getattr(text, "num_experts_per_tok", None) or 1
        inner = (experts > 1 and getattr(text, "moe_intermediate_size", None)) or text.intermediate_size
        block = hidden * head * 2 * (heads + kv_heads) + 3 * hidden * inner * experts
        return layers * block + hidden * text.vocab_size, layers * heads * head
    except AttributeError as error:
        raise S2TError(f"the model's configuration has no {error.name}: FLOPs cannot be estimated for it") from error


def flops(config: Any, tokens: int, *, context: float = 0.0) -> float:
    """Floating-point operations of `tokens` tokens fed through a model (prefill and decoding alike).

    Two per weight and token, plus attention: 2 for the scores and 2 for the values, per position and width, at a mean
    of `context` visible positions per token.
    """
    weights, width = weights_and_width(config)
    return float(tokens) * (2.0 * weights + 4.0 * width * context)


def money(cost: Counts, prices: PriceConfig) -> float | None:
    """What a run costs, in the currency of the prices; None if everything is free. The LLM wrote the segments too that
    MentorCollab's verifier rejected.
    """
    if not (prices.price_slm or prices.price_llm_read or prices.price_llm_written):
        return None
    read = cost.slm_tokens_processed * prices.price_slm + cost.llm_tokens_processed * prices.price_llm_read
    written = cost.llm_tokens_generated + cost.mentor_tokens_rejected
    return (read + written * prices.price_llm_written) / 1e6
