"""What the SLM gives a text that is already there: the log-probability and the greedy token at each of its steps."""

from __future__ import annotations

from collections.abc import Sequence

from select_to_think.policies.label import along
from select_to_think.structures import Generation, Observe, PolicyRun, StepRecord


def score_output(prompt: Sequence[int], output: Sequence[int], alternatives: int = 1) -> PolicyRun:
    """`output` (token ids, at least one) as if the SLM had written it after `prompt` (at least one): one forward.

    Each step carries the `alternatives` (at least one) most probable tokens in its place.
    """
    look = Observe(alternatives, ids=tuple((token,) for token in output), every=True)
    seen = yield from along("slm", prompt, output, look)
    steps = tuple(
        StepRecord(
            token,
            float(logprob),
            greedy_token=int(ids[0]),
            alternatives=tuple(map(int, ids)),
            alternative_logprobs=tuple(map(float, logprobs)),
        )
        for token, (logprob,), ids, logprobs in zip(
            output, seen.asked_logprobs, seen.top_ids, seen.top_logprobs, strict=True
        )
    )
    return Generation(tuple(output), "stop", steps)
