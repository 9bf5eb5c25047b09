"""Which prompts fit the context: the others are neither asked nor forgotten.

Non-goals: shortening prompts. A prompt without its end, or an example without its solution, is another question.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from select_to_think.evaluation.items import Item
from select_to_think.evaluation.workers import Workers, workers_of
from select_to_think.structures import PromptTooLong, S2TError

if TYPE_CHECKING:
    from select_to_think.session import Session


Lengths = list[tuple[Item, int]]  # items, each with the tokens of its prompt


def fit(session: Session, items: Sequence[Item], max_new_tokens: int, *, with_llm: bool) -> tuple[Lengths, Lengths]:
    """The items whose prompts fit beside the longest answer, and those whose prompts do not.

    `with_llm`: they must fit the context of the LLM too.
    """
    fitting: Lengths = []
    too_long: Lengths = []
    for item in items:
        try:
            length = len(session.prompt(item.asked, max_new_tokens, with_llm=with_llm))
        except PromptTooLong as error:
            too_long.append((item, error.tokens))
        else:
            fitting.append((item, length))
    return fitting, too_long


def assert_one_fits(session: Session, items: Sequence[Item], max_new_tokens: int, *, with_llm: bool) -> None:
    """Raise S2TError if no item's prompt fits."""
    if not any(fit(session, [item], max_new_tokens, with_llm=with_llm)[0] for item in items):
        only_fitting(session, items, max_new_tokens, with_llm=with_llm)


def only_fitting(
    holder: Session | Workers, items: Sequence[Item], max_new_tokens: int, *, with_llm: bool
) -> tuple[list[Item], list[str]]:
    """The items whose prompts fit, and what a person must be told of the others.

    Raises S2TError if none fits.
    """
    asked = partial(fit, items=items, max_new_tokens=max_new_tokens, with_llm=with_llm)
    fitting, too_long = workers_of(holder).ask(asked)
    if not too_long:
        return list(items), []
    longest = max(length for _, length in too_long)
    remark = (
        f"{len(too_long)} of {len(items)} prompts (up to {longest} tokens) do not fit the context beside "
        f"{max_new_tokens} new tokens"
    )
    if not fitting:
        raise S2TError(f"{remark}; lower --max-new-tokens, shorten --template or lower --shots")
    return [item for item, _ in fitting], [f"{remark}: they were left out"]
