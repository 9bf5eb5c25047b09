"""From a question to token ids: the model's own chat template where there is one, never two BOS tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from select_to_think.structures import S2TError

if TYPE_CHECKING:
    from select_to_think.models.remote import Model


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said so far. The answer to it begins with `answer_tokens` (of the SLM), and is still to be completed."""

    turns: tuple[tuple[str, str], ...]  # (role, text)
    answer_tokens: tuple[int, ...] = ()

    @property
    def question(self) -> str:
        """What the user said last."""
        return next((text for role, text in reversed(self.turns) if role == "user"), "")


CHARACTERS_PER_TOKEN = 32  # more text than this for every place of the context is measured by its beginning


def prompt_ids(loaded: Model, question: str | Conversation, *, begun: str = "") -> list[int]:
    """Token ids of the prompt that asks `question`, ready to be continued with the answer or, if its first words are
    given, with what follows `begun`. The `answer_tokens` of a conversation are not among them.

    A chat template writes its own BOS, so none is added to it; a plain model gets the tokenizer's default. Of a text
    that is far too long for the context only a beginning that is too long itself is returned: a tokenizer takes minutes
    for the whole.

    Raises:
        S2TError: a question that is empty or no text, a chat template that fails, or a conversation of several turns
            with a model that has no template.
    """
    turns = question.turns if isinstance(question, Conversation) else (("user", question),)
    for _, said in turns:
        require_text(said)
    if not any(said.strip() for role, said in turns if role == "user"):
        raise S2TError("a question is empty: write one")
    tokenizer = loaded.tokenizer
    if not tokenizer.chat_template:
        if len(turns) > 1:
            raise S2TError(f"{loaded.name} has no chat template: ask one question, with nothing before it")
        return tokens_of(loaded, turns[0][1] + begun)
    messages = [{"role": role, "content": said} for role, said in turns]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program of its own
        raise S2TError(
            f"the chat template of {loaded.name} fails ({type(error).__name__}: {error}): correct chat_template among "
            "the files of its tokenizer"
        ) from error
    return tokens_of(loaded, text + begun, add_special_tokens=False)


def tokens_of(loaded: Model, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """Token ids of `text`, or of a beginning that does not fit the context."""
    start = text[: CHARACTERS_PER_TOKEN * loaded.max_positions]
    ids = list(loaded.tokenizer(start, add_special_tokens=add_special_tokens).input_ids)
    if len(start) == len(text) or len(ids) > loaded.max_positions:
        return ids
    return list(loaded.tokenizer(text, add_special_tokens=add_special_tokens).input_ids)


def require_text(text: str) -> None:
    """Raise S2TError for a lone surrogate, which is half a character and no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise S2TError(f"{text[:40]!r} holds half a character at {error.start}: write it as UTF-8 text") from error
