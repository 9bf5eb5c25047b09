"""The statistics behind a table of results: standard errors, paired differences, seeds, and cost.

Non-goals: reading result files and printing (see `analysis`), and anything that needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from select_to_think.config import PriceConfig
from select_to_think.structures import Counts, S2TError

RESAMPLES = 10_000
_BLOCK = 4_000_000  # drawn indices held at once: bounds the memory of the bootstrap


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, its standard error (None for fewer than two values) and how many values it rests on."""

    mean: float
    stderr: float | None
    n: int


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


def _values(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """A one-dimensional float array of at least one finite value."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise S2TError(f"{name} must be a list of at least one finite number")
    return array


def mean_and_stderr(values: ArrayLike) -> Estimate:
    """Mean and its standard error over items: the sample standard deviation (n - 1) divided by sqrt(n)."""
    array = _values(values, "the outcomes")
    stderr = float(array.std(ddof=1) / math.sqrt(array.size)) if array.size > 1 else None
    return Estimate(float(array.mean()), stderr, array.size)


def paired_difference(
    method: ArrayLike, baseline: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> PairedDifference:
    """Compare two methods on the same items, in the same order.

    The interval is the percentile bootstrap over items: each resample draws n items with replacement and keeps the
    two outcomes of an item together. Same seed, same interval.

    Args:
        method, baseline: (n,) outcomes per item; 0/1, or fractions when an item was answered several times.

    Raises:
        S2TError: different lengths, or no items.
    """
    ours, theirs = _values(method, "the method's outcomes"), _values(baseline, "the baseline's outcomes")
    if ours.size != theirs.size:
        raise S2TError(f"a paired comparison needs the same items: got {ours.size} and {theirs.size}")
    differences = ours - theirs  # (n,)
    low, high = bootstrap_interval(differences, resamples=resamples, seed=seed, level=level)
    binary = bool(np.isin(ours, (0.0, 1.0)).all() and np.isin(theirs, (0.0, 1.0)).all())
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    p = mcnemar_p(wins, losses) if binary else None
    return PairedDifference(float(differences.mean()), low, high, wins, losses, ours.size, p)


def bootstrap_interval(
    values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over items."""
    array = _values(values, "the outcomes")
    random = np.random.default_rng(seed)
    rows = max(1, _BLOCK // array.size)
    means = np.concatenate(
        [
            array[random.integers(array.size, size=(min(rows, resamples - start), array.size))].mean(axis=1)
            for start in range(0, resamples, rows)
        ]
    )  # (resamples,)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar_p(wins: int, losses: int) -> float:
    """McNemar's exact two-sided p: the binomial test of the discordant pairs against one half; 1 without any."""
    from scipy.stats import binomtest  # slow to import, and reading results does not need it

    return float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def over_seeds(outcomes: Sequence[ArrayLike]) -> Estimate:
    """Several runs of one method that differ by seed: the mean of their means, and its error.

    Each run is an array of (n,) outcomes over the same items. With two runs or more, `stderr` is the error of the mean
    over runs (how much the seed matters), and `n` the number of runs; a single run has the error over its items.
    """
    if not outcomes:
        raise S2TError("there are no runs to aggregate")
    means = [mean_and_stderr(values) for values in outcomes]
    if len({one.n for one in means}) > 1:
        raise S2TError("runs that differ by seed must have the same items")
    return mean_and_stderr([one.mean for one in means]) if len(means) > 1 else means[0]


def per_item(outcomes: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """(n,) mean outcome of each item over the runs: what `paired_difference` takes when there are several seeds."""
    stacked = np.stack([_values(values, "the outcomes") for values in outcomes])  # (runs, n)
    return np.asarray(stacked.mean(axis=0), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a decoder's forward costs: multiplied weights per token, and the width that attention runs over."""

    weights: int  # weights that multiply every token, the output head included, the input embedding not
    attention_width: int  # layers * heads * head_dim


def model_shape(config: Any) -> Shape:
    """The shape of a decoder from its transformers configuration (or a mapping with the same names).

    Counts query, key, value and output projections, a gated MLP (three matrices; the active experts only for mixtures
    of experts) and the output head. Biases and norms are left out: less than a thousandth.
    """
    text = _get(config, "text_config") or config
    hidden, layers = int(_need(text, "hidden_size")), int(_need(text, "num_hidden_layers"))
    heads = int(_need(text, "num_attention_heads"))
    kv_heads = int(_get(text, "num_key_value_heads") or heads)
    head = int(_get(text, "head_dim") or hidden // heads)
    attention = hidden * head * (2 * heads + 2 * kv_heads)
    experts = int(_get(text, "num_experts_per_tok") or 1)
    width = int((_get(text, "moe_intermediate_size") if experts > 1 else 0) or _need(text, "intermediate_size"))
    weights = layers * (attention + 3 * hidden * width * experts) + hidden * int(_need(text, "vocab_size"))
    return Shape(weights, layers * heads * head)


def _get(config: Any, name: str) -> Any:
    """A field of a configuration object or mapping, or None."""
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _need(config: Any, name: str) -> Any:
    """A field that must be there."""
    value = _get(config, name)
    if value is None:
        raise S2TError(f"the model's configuration has no {name}: FLOPs cannot be estimated for it")
    return value


def flops(config: Any, tokens: int, *, context: float = 0.0) -> float:
    """Floating-point operations of `tokens` tokens fed through a model (prefill and decoding alike).

    Two per weight and token, plus attention: 2 for the scores and 2 for the values, per position and width, at a mean
    of `context` visible positions per token.
    """
    shape = model_shape(config)
    return float(tokens) * (2.0 * shape.weights + 4.0 * shape.attention_width * context)


def money(cost: Counts, prices: PriceConfig) -> float | None:
    """What a run costs, in the currency of the prices; None if everything is free."""
    if not (prices.price_slm or prices.price_llm_read or prices.price_llm_written):
        return None
    read = cost.slm_tokens_processed * prices.price_slm + cost.llm_tokens_processed * prices.price_llm_read
    return (read + cost.llm_tokens_generated * prices.price_llm_written) / 1e6
