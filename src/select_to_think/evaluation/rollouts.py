"""Greedy rollouts of the SLM and what both models say at every step: the ground of measuring and calibrating.

Non-goals: on-policy collection under `s2t` (`collect/`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from select_to_think.config import DecodeConfig, SelectConfig
from select_to_think.evaluation.items import Item
from select_to_think.models.scorer import Scorer
from select_to_think.policies.label import Labels
from select_to_think.structures import Progress

if TYPE_CHECKING:
    from select_to_think.session import Session


def labelled_greedy(
    session: Session,
    items: Sequence[Item],
    decode: DecodeConfig,
    *,
    with_llm: bool,
    progress: Progress | None,
    coupled: Scorer | None = None,
    hidden: bool = False,
) -> Iterator[tuple[int, Labels]]:
    """(index of the item, labels of the P tokens that greedy decoding writes), in order of finishing.

    With a `coupled` scorer it is the SLM with the scorer's adapter on that decodes: `s2t-local` that never triggers.
    `hidden`: the labels hold the SLM's last hidden states. `progress` counts rollouts and labels: two per item.
    """
    done, total = 0, 2 * len(items)
    questions = [item.asked for item in items]
    tokens: dict[int, tuple[int, ...]] = {}
    never = SelectConfig(trigger="random", trigger_budget=0.0, scorer_mode="coupled")
    method = "greedy" if coupled is None else "s2t-local"
    for index, generation in session.stream(questions, method, decode, never):
        tokens[index] = generation.tokens
        done += 1
        if progress:
            progress(done, total)
    outputs = [tokens[index] for index in range(len(items))]
    labelled = session.label(questions, outputs, with_llm=with_llm, hidden=hidden, decode=decode, coupled=coupled)
    for index, labels in labelled:
        done += 1
        if progress:
            progress(done, total)
        yield index, labels
