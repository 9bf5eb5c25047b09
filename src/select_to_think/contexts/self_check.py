"""Does a model say the same in flat forwards as in its own? A few tokens, when its backend is made.

Ragged rows in one forward, tokens on a cache, and leaves are compared with the model's plain forward over the whole
text, on the weights that were loaded. Whatever an architecture does with masks, positions or its head: it agrees, or it
is refused.

Non-goals: speed; texts longer than a sliding window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from select_to_think.contexts.kv import KVMemory
from select_to_think.contexts.layout import Segment
from select_to_think.contexts.memory import SMALLEST_EXTENT
from select_to_think.contexts.observing import NOT_A_NUMBER
from select_to_think.structures import S2TError

if TYPE_CHECKING:
    from select_to_think.contexts.flat_model import FlatModel

COMPARED = 16  # most probable tokens of each position
LARGEST_DIFFERENCE_NATS = {torch.float32: 0.01}  # rounding of half types moves more
LARGEST_HALF_DIFFERENCE_NATS = 0.5
ROUNDINGS = 4  # of the largest logit: bfloat16 knows logits above 32 to a quarter of a nat
LARGEST_ROUNDING_NATS = 2.0


@torch.inference_mode()
def disagreement(flat: FlatModel) -> str | None:
    """What differs between flat and plain forwards, or None.

    Raises:
        S2TError: the model's numbers are none.
    """
    vocabulary = flat.config.vocab_size
    one, other, (a, b, c) = (
        [(37 * i + 5) % vocabulary for i in numbers] for numbers in (range(9), range(20, 24), range(30, 33))
    )
    size = SMALLEST_EXTENT
    memory = KVMemory(flat.shapes, 2 * size, flat.dtype, flat.device)
    first = [Segment(0, size, 0, 0, one[:6]), Segment(size, size, 0, 0, other)]
    second = [Segment(0, size, 6, 6, one[6:]), Segment(size, size, len(other), len(other), (a, b, c), (1, 2))]
    cases = [
        ("rows of different lengths in one forward", first, [(0, 5, one[:6]), (1, 3, other)]),
        ("tokens on a cache", second, [(0, 2, one)]),
        ("leaves of a branch", second, [(1, 0, [*other, a]), (1, 2, [*other, b, c])]),
    ]
    limit = LARGEST_DIFFERENCE_NATS.get(flat.dtype, LARGEST_HALF_DIFFERENCE_NATS)
    for what, segments, looks in cases:
        step = flat.lay_out(segments)
        hidden = flat.run(step, memory)
        for segment, line, text in looks:
            logits = plain(flat, text)
            best, top = logits.topk(min(COMPARED, vocabulary))
            rounding = ROUNDINGS * torch.finfo(flat.dtype).eps * float(best.abs().max())
            expected = logits.log_softmax(-1)
            found = flat.head(hidden[step.offsets[segment] + line]).float().log_softmax(-1)
            difference = float((found - expected)[top].abs().max())
            if math.isnan(difference):
                raise S2TError(NOT_A_NUMBER)
            if difference > max(limit, min(rounding, LARGEST_ROUNDING_NATS)):
                return f"{what}: log-probabilities differ by {difference:.2g} nats from its plain forward"
    return None


def plain(flat: FlatModel, text: Sequence[int]) -> Tensor:
    """(V,) logits behind a text, by the model's own forward."""
    ids = torch.tensor([list(text)], device=flat.device)
    logits: Tensor = flat.model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -1]
    return logits.float()
