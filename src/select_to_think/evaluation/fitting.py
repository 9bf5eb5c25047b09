"""Which prompts fit the context: the others are neither asked nor forgotten.

Non-goals: shortening prompts. A prompt without its end, or an example without its solution, is another question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from select_to_think.evaluation.items import Item
from select_to_think.evaluation.workers import Workers, workers_of
from select_to_think.structures import PromptTooLong, S2TError

if TYPE_CHECKING:
    from select_to_think.session import Session


@dataclass(frozen=True)
class Fitted:
    """Items, each with the tokens of its prompt: those that fit beside the longest answer, and those that do not."""

    fitting: list[tuple[Item, int]]
    too_long: list[tuple[Item, int]]


def fit(session: Session, items: Sequence[Item], max_new_tokens: int, *, with_llm: bool) -> Fitted:
    """Try every prompt. `with_llm`: it must fit the context of the LLM too."""
    fitted = Fitted([], [])
    for item in items:
        try:
            length = len(session.prompt(item.asked, max_new_tokens, with_llm=with_llm))
        except PromptTooLong as error:
            fitted.too_long.append((item, error.tokens))
        else:
            fitted.fitting.append((item, length))
    return fitted


def only_fitting(
    holder: Session | Workers, items: Sequence[Item], max_new_tokens: int, *, with_llm: bool
) -> tuple[list[Item], list[str]]:
    """The items whose prompts fit, and what a person must be told of the others.

    Raises S2TError if none fits.
    """
    asked = partial(fit, items=items, max_new_tokens=max_new_tokens, with_llm=with_llm)
    fitted = workers_of(holder).ask(asked)
    if not fitted.too_long:
        return list(items), []
    longest = max(length for _, length in fitted.too_long)
    remark = (
        f"{len(fitted.too_long)} of {len(items)} prompts (up to {longest} tokens) do not fit the context beside "
        f"{max_new_tokens} new tokens"
    )
    if not fitted.fitting:
        raise S2TError(f"{remark}; lower --max-new-tokens, shorten --template or lower --shots")
    return [item for item, _ in fitted.fitting], [f"{remark}: they were left out"]
