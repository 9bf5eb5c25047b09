"""A folder's own tokenizer is what a model gets, whatever `AutoTokenizer` makes of the model's type."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from recipe.tokenizer import train_tokenizer
from select_to_think.models.loading import load_model
from select_to_think.models.tokenizer import agrees, load_tokenizer
from tiny import tiny_model

TEXT = "Tom has 125 apples and 17 pears."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of type qwen2 whose tokenizer keeps numbers whole."""
    tokenizer = train_tokenizer("words")
    tiny_model("qwen2", vocab=len(tokenizer), hidden=8).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_the_file_wins_where_the_folder_names_no_class(folder: Path) -> None:
    automatic, ours = AutoTokenizer.from_pretrained(folder), train_tokenizer("words")
    assert automatic(TEXT).input_ids != ours(TEXT).input_ids, "transformers no longer does what this guards against"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_model(str(folder), device="cpu").tokenizer
    assert loaded(TEXT).input_ids == ours(TEXT).input_ids
    assert loaded.chat_template == ours.chat_template and loaded.eos_token_id == ours.eos_token_id


def test_a_class_of_its_own_wins_with_a_warning(folder: Path) -> None:
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "Qwen2Tokenizer"}))
    with pytest.warns(UserWarning, match="remove tokenizer_class"):
        tokenizer = load_tokenizer(str(folder), trust_remote_code=False)
    assert not agrees(tokenizer, folder / "tokenizer.json")
