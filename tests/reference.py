"""The plain definitions of `evaluation/plain.py` on models, and the KL statistic in Python floats."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from select_to_think.evaluation import plain
from select_to_think.evaluation.plain import PlainModel


def next_logprobs(model: PreTrainedModel, tokens: Sequence[int], forbidden: Sequence[int] = ()) -> Tensor:
    """Log-probabilities of the next token after `tokens`, (V,)."""
    return PlainModel(model, forbidden)(tokens)


def bucketed_kl(llm: Tensor, slm: Tensor, support: int) -> float:
    """The KL trigger's statistic, written with Python floats."""
    ids = slm.topk(support).indices.tolist()
    inside = [(math.exp(llm[i]), math.exp(slm[i])) for i in ids]
    rest = (max(1 - sum(p for p, _ in inside), 1e-7), max(1 - sum(q for _, q in inside), 1e-7))
    return sum(p * math.log(p / q) for p, q in [*inside, rest] if p > 0)


def select_to_think(
    slm: PreTrainedModel,
    llm: PreTrainedModel,
    prompt: Sequence[int],
    new: int,
    stop: set[int],
    threshold: float,
    k: int,
    support: int,
    takeover: bool = False,
) -> list[int]:
    """S2T with the KL trigger."""

    def fires(small: Tensor, large: Tensor) -> bool:
        return bucketed_kl(large, small, support) > threshold

    models = (PlainModel(model) for model in (slm, llm))
    return plain.select_to_think(*models, prompt, new, stop, fires, k, takeover)
