"""From a question to token ids: the model's own chat template where there is one, never two BOS tokens."""

from __future__ import annotations

from select_to_think.models.loading import LoadedModel


def prompt_ids(loaded: LoadedModel, question: str, *, begun: str = "") -> list[int]:
    """Token ids of the prompt that asks `question`, ready to be continued with the answer or, if its first words are
    given, with what follows `begun`.

    A chat template writes its own BOS, so none is added to it; a plain model gets the tokenizer's default.
    """
    tokenizer = loaded.tokenizer
    if not tokenizer.chat_template:
        return list(tokenizer(question + begun).input_ids)
    messages = [{"role": "user", "content": question}]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return list(tokenizer(text + begun, add_special_tokens=False).input_ids)
