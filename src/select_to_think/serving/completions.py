"""The forms of /v1/completions.

Non-goals: what they hold (`answers.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from select_to_think.serving.answers import Delta, TokenLogprob, Writing
from select_to_think.serving.tokens import TokenTexts, sayable


class CompletionForm:
    """Texts."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, texts: TokenTexts, *, as_ids: bool) -> None:
        """With `as_ids` tokens are told as their ids."""
        self.texts, self.as_ids = texts, as_ids

    def opening(self) -> dict[str, Any] | None:
        """What a stream says of a choice before anything is written: nothing."""
        return None

    def part(self, delta: Delta) -> dict[str, Any]:
        """What a stream says of new text."""
        return {"text": delta.text, "logprobs": self.logprobs(delta.logprobs)}

    def whole(self, delta: Delta, writing: Writing) -> dict[str, Any]:
        """A finished answer."""
        return self.part(delta)

    def logprobs(self, found: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """The log-probabilities of tokens; beside the most probable ones, each chosen token with its own."""
        if not found:
            return None
        return {
            "tokens": [self.text(each.token) for each in found],
            "token_logprobs": [None if each.logprob is None else sayable(each.logprob) for each in found],
            "top_logprobs": [self.top(each) for each in found],
            "text_offset": [each.offset for each in found],
        }

    def top(self, each: TokenLogprob) -> dict[str, float] | None:
        """A token's place in its distribution."""
        if each.logprob is None:
            return None
        return {self.text(token): sayable(nats) for token, nats in (*each.alternatives, (each.token, each.logprob))}

    def text(self, token: int) -> str:
        """A token as it is told here."""
        return self.texts.text(token, as_id=self.as_ids)
