"""The tokenizer of a model, as its folder says it is.

`AutoTokenizer` (transformers 5) goes by the type of the *model*: any model of type `qwen2` gets the pre-tokenizer of
Qwen2, also where `tokenizer.json` has another one and the folder asks for no class of its own. A model whose numbers
are cut otherwise than in its training cannot read them, and nothing says so.

Non-goals: prompts (`prompting.py`), vocabularies (`vocabulary.py`).
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend", None)  # classes that mean: as tokenizer.json says
PROBE = "In 2024, 17 + 125 = 142.5; it's  fine:\n\tdef f(x_1, Größe): return '§' # 你好 -- w7 w8\n"


def load_tokenizer(name_or_path: str, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a name or folder.

    A folder's `tokenizer.json` wins over `AutoTokenizer`, unless the folder names a class of its own; then a difference
    between the two is only warned of.

    Raises:
        OSError, ValueError: none there.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        name_or_path, trust_remote_code=trust_remote_code
    )
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ValueError("there is no tokenizer")  # transformers makes one of nothing but special tokens up
    file = Path(name_or_path) / "tokenizer.json"
    if not file.is_file() or agrees(tokenizer, file):
        return tokenizer
    declared = declared_class(Path(name_or_path))
    if declared in GENERIC:
        own: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(name_or_path)
        return own
    warnings.warn(
        f"{file} cuts text otherwise than the {declared} that {file.parent} asks for, which is used; if the model was "
        f"trained with the file, remove tokenizer_class from {file.with_name('tokenizer_config.json')}",
        stacklevel=2,
    )
    return tokenizer


def agrees(tokenizer: PreTrainedTokenizerBase, file: Path) -> bool:
    """Whether `tokenizer` cuts text as `file`, a `tokenizer.json`, says."""
    plain = Tokenizer.from_file(str(file))
    plain.no_truncation()
    plain.no_padding()
    expected: list[int] = plain.encode(PROBE, add_special_tokens=False).ids
    return expected == list(tokenizer(PROBE, add_special_tokens=False).input_ids)


def declared_class(folder: Path) -> str | None:
    """The tokenizer class that a folder asks for, if any."""
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return None
    declared = json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class")
    return None if declared is None else str(declared)
