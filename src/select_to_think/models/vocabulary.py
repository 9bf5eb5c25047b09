"""Which token ids end a sequence, which are never emitted, and whether two models share a vocabulary."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from select_to_think.models.remote import RemoteModel
from select_to_think.structures import S2TError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from select_to_think.models.loading import LoadedModel
    from select_to_think.models.remote import Model

RESERVED_TOKEN = re.compile(r"^[<\[]\|?(reserved|unused|extra)(_special_token)?_?\d+\|?[>\]]$")


def stop_ids(loaded: Model) -> frozenset[int]:
    """Ids that end an answer: those of the generation configuration, the model and the tokenizer."""
    if isinstance(loaded, RemoteModel):
        return loaded.stop_ids
    return all_ids(
        getattr(loaded.model.generation_config, "eos_token_id", None),
        loaded.model.config.get_text_config().eos_token_id,
        loaded.tokenizer.eos_token_id,
    )


def named_stop_ids(name_or_path: str, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The same of a model that is not here, as far as what is published beside its tokenizer tells."""
    from transformers import GenerationConfig

    try:
        published: Any = GenerationConfig.from_pretrained(name_or_path).eos_token_id
    except (OSError, ValueError):
        published = None
    return all_ids(published, tokenizer.eos_token_id)


def all_ids(*sources: Any) -> frozenset[int]:
    """The ids of sources that are an id, several, or none."""
    return frozenset(i for source in sources for i in ([source] if isinstance(source, int) else source or []))


def reserved_ids(loaded: Model) -> frozenset[int]:
    """Ids that are never emitted: padded rows without a token, and reserved tokens such as `<|reserved_0|>`."""
    vocabulary = loaded.tokenizer.get_vocab()
    named = {i for token, i in vocabulary.items() if RESERVED_TOKEN.match(token)}
    padded = set(range(loaded.vocab_size)) - set(vocabulary.values())
    return frozenset((named | padded) - stop_ids(loaded))


def share_vocabulary(slm: LoadedModel, llm: Model) -> bool:
    """Whether both have the same tokens under the same ids; different padding behind them is fine."""
    ours: dict[str, int] = slm.tokenizer.get_vocab()
    theirs: dict[str, int] = llm.tokenizer.get_vocab()
    return ours == theirs


def check_shared_vocabulary(slm: LoadedModel, llm: Model) -> None:
    """For what compares whole distributions.

    Raises:
        S2TError: the vocabularies differ; the first difference is named.
    """
    if share_vocabulary(slm, llm):
        return
    ours, theirs = slm.tokenizer.get_vocab(), llm.tokenizer.get_vocab()
    token = min(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
    raise S2TError(
        f"{slm.name} and {llm.name} have different vocabularies (token {token!r} has the ids "
        f"{ours.get(token, 'none')} and {theirs.get(token, 'none')}), and this needs one: "
        "choose two models of one family"
    )
