"""Rollouts and what both models say at every step of them: the ground of measuring, calibrating and collecting.

Non-goals: what is made of the labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from select_to_think.config import DecodeConfig, SelectConfig
from select_to_think.evaluation.items import Item
from select_to_think.policies.label import Labels

if TYPE_CHECKING:
    from select_to_think.models.scorer import Scorer
    from select_to_think.session import Session


def labelled_rollouts(
    session: Session,
    items: Sequence[Item],
    method: str,
    decode: DecodeConfig,
    select: SelectConfig,
    *,
    with_llm: bool,
    coupled: Scorer | None = None,
    hidden: bool = False,
    llm_top: int = 1,
) -> Iterator[tuple[int, tuple[int, ...], Labels]]:
    """(index of the item, the P tokens that a method writes, their labels), labelled in batches as they finish."""
    if with_llm:
        _ = session.llm  # later, rows of the SLM would hold their memory
    rollouts = session.stream((item.asked for item in items), method, decode, select)
    while finished := list(islice(rollouts, decode.max_batch)):
        questions = [items[index].asked for index, _ in finished]
        tokens = [generation.tokens for _, generation in finished]
        labelled = session.label(
            questions, tokens, with_llm=with_llm, hidden=hidden, llm_top=llm_top, decode=decode, coupled=coupled
        )
        for place, labels in labelled:
            yield finished[place][0], tokens[place], labels


def labelled_greedy(
    session: Session,
    items: Sequence[Item],
    decode: DecodeConfig,
    *,
    with_llm: bool,
    coupled: Scorer | None = None,
    hidden: bool = False,
) -> Iterator[tuple[int, Labels]]:
    """(index of the item, labels of the P tokens that greedy decoding writes), in any order.

    With a `coupled` scorer it is the SLM with the scorer's adapter on that decodes: `s2t-local` that never triggers.
    `hidden`: the labels hold the SLM's last hidden states.
    """
    never = SelectConfig(trigger="random", trigger_budget=0.0, scorer_mode="coupled")
    method = "greedy" if coupled is None else "s2t-local"
    found = labelled_rollouts(session, items, method, decode, never, with_llm=with_llm, coupled=coupled, hidden=hidden)
    return ((index, labels) for index, _, labels in found)
