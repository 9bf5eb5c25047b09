"""The forms of /v1/chat/completions and /v1/completions, and the texts by which they tell single tokens.

Non-goals: what the forms hold (`answers.py`); the text of an answer, which is more than its tokens' texts
(`models/detokenizer.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from select_to_think.models.loading import LoadedModel
from select_to_think.models.spelling import Spelling
from select_to_think.serving.answers import Delta, TokenLogprob, Writing
from select_to_think.structures import S2TError

LEAST = -9999.0  # JSON has no infinity; OpenAI says this of tokens that are all but impossible


class TokenTexts:
    """How the tokens of a model are written."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Read the vocabulary."""
        self.tokenizer = loaded.tokenizer
        try:
            self.pieces = Spelling(loaded).pieces
        except S2TError:  # a vocabulary of whole words
            self.pieces = []

    @cache  # noqa: B019 - as large as the vocabulary, for the life of the server
    def data(self, token: int) -> bytes:
        """What a token writes; special ones by their names."""
        if token < len(self.pieces) and self.pieces[token]:
            return self.pieces[token]
        return str(self.tokenizer.decode([token])).encode("utf-8", "replace")

    def text(self, token: int, *, as_id: bool = False) -> str:
        """A token as the key of a log-probability: its text, its bytes where they are no text, or its id."""
        if as_id:
            return f"token_id:{token}"
        data = self.data(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def sayable(logprob: float) -> float:
    """A log-probability as JSON can say it."""
    return max(LEAST, logprob)


class Form:
    """What both have; with `as_ids` tokens are told as their ids."""

    def __init__(self, texts: TokenTexts, *, as_ids: bool) -> None:
        self.texts, self.as_ids = texts, as_ids

    def text(self, token: int) -> str:
        """A token as it is told here."""
        return self.texts.text(token, as_id=self.as_ids)


class ChatForm(Form):
    """Messages."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

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
        data = list(self.texts.data(token))
        return {"token": self.text(token), "logprob": sayable(logprob or 0.0), "bytes": data}


class CompletionForm(Form):
    """Texts."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

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
