"""The forms of /v1/chat/completions.

Non-goals: what they hold (`answers.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from select_to_think.serving.answers import Delta, TokenLogprob, Writing
from select_to_think.serving.tokens import TokenTexts, sayable


class ChatForm:
    """Messages."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, texts: TokenTexts, *, as_ids: bool) -> None:
        """With `as_ids` tokens are told as their ids."""
        self.texts, self.as_ids = texts, as_ids

    def opening(self) -> dict[str, Any]:
        """What a stream says of a choice before anything is written."""
        return {"delta": {"role": "assistant", "content": "", "refusal": None}, "logprobs": None}

    def part(self, delta: Delta) -> dict[str, Any]:
        """What a stream says of new text."""
        return {"delta": {"content": delta.text} if delta.text else {}, "logprobs": self.logprobs(delta.logprobs)}

    def whole(self, delta: Delta, writing: Writing) -> dict[str, Any]:
        """A finished answer."""
        message: dict[str, Any] = {"role": "assistant", "content": delta.text, "refusal": None, "annotations": []}
        told = writing.alternatives is not None
        return {"message": message, "logprobs": self.logprobs(delta.logprobs) if told else None}

    def logprobs(self, found: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """The log-probabilities of tokens."""
        if not found:
            return None
        content = [
            {
                **self.entry(each.token, each.logprob),
                "top_logprobs": [self.entry(token, logprob) for token, logprob in each.alternatives],
            }
            for each in found
        ]
        return {"content": content, "refusal": None}

    def entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        """One token."""
        return {
            "token": self.texts.text(token, as_id=self.as_ids),
            "logprob": sayable(logprob or 0.0),
            "bytes": list(self.texts.data(token)),
        }
