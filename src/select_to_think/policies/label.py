"""What both models say at every token of a finished sequence: one forward of each.

This is how local sufficiency is measured, triggers are calibrated and training groups are labelled: the statistics are
those of `triggers/`, computed for the whole sequence at once.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from select_to_think.structures import Extend, Floats, Ids, Observation, Observe, Requests
from select_to_think.triggers.table import calibrated


@dataclass(frozen=True, slots=True)
class Labels:
    """What both models say at each of the P output tokens of a finished sequence (one forward each).

    Row p describes the distribution from which output token p was chosen. The fields that were asked for are there.
    """

    slm_ids: Ids  # (P, S) the SLM's top-S tokens, best first
    slm_logprobs: Floats  # (P, S) nats
    statistics: Mapping[str, Floats]  # trigger -> (P,) its statistic; those that need an LLM only with one
    hidden: Floats = None  # type: ignore[assignment]  # (P, hidden_size) of the SLM
    llm_logprobs: Floats = None  # type: ignore[assignment]  # (P, S) of `slm_ids`, nats
    llm_top_ids: Ids = None  # type: ignore[assignment]  # (P, T) the LLM's top-T tokens, best first
    llm_top_logprobs: Floats = None  # type: ignore[assignment]  # (P, T) nats


@dataclass(frozen=True)
class Label:
    """Observe a given output; `support` and `llm_top` are how many top tokens of each model are kept."""

    support: int
    with_llm: bool
    hidden: bool = False
    llm_top: int = 1

    def run(self, prompt: Sequence[int], tokens: Sequence[int]) -> Generator[Requests, Any, Labels]:
        """Label the P `tokens` (at least one) that followed `prompt`."""
        look = Observe(self.support, entropy=True, hidden=self.hidden, every=True)
        slm = yield from along("slm", prompt, tokens, look)
        llm = Observation()
        if self.with_llm:
            look = Observe(self.llm_top, ids=tuple(map(tuple, slm.top_ids)), every=True)
            llm = yield from along("llm", prompt, tokens, look)
        statistics = {
            kind.name: kind.statistic(slm, llm)
            for kind in calibrated(with_llm=self.with_llm)
            if kind.statistic is not None
        }
        ours = slm.top_ids, slm.top_logprobs, statistics, slm.hidden
        return Labels(*ours, llm.asked_logprobs, llm.top_ids, llm.top_logprobs)


def along(
    model: str, prompt: Sequence[int], tokens: Sequence[int], look: Observe
) -> Generator[Requests, Any, Observation]:
    """What a model says at each of the `tokens` that followed `prompt`."""
    yield Extend(model, prompt[:-1])
    seen: Observation = yield Extend(model, [prompt[-1], *tokens[:-1]], look)  # the token before each of them
    return seen
