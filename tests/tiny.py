"""Tiny real `transformers` models, built in code: the fixtures of every law test."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from select_to_think.models.loading import LoadedModel

ARCHITECTURES = ("qwen2", "qwen3", "llama", "mistral", "gemma3", "phi3")
MODEL_TYPES = {"gemma3": "gemma3_text"}
EXTRAS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 8, "head_dim": None},
    "gemma3": {
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 16,
    },
    "phi3": {"pad_token_id": 0},
}


def tiny_model(
    arch: str,
    *,
    vocab: int = 64,
    hidden: int = 32,
    layers: int = 2,
    seed: int = 0,
    tie: bool = False,
    scale: float = 3.0,
    attention: str = "sdpa",
) -> PreTrainedModel:
    """A random-weight model with grouped-query attention in eval mode, fp32. `scale` sharpens its distribution."""
    settings: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tie,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attn_implementation": attention,
        **EXTRAS.get(arch, {}),
    }
    if settings.get("layer_types"):
        settings["layer_types"] = [settings["layer_types"][i % 2] for i in range(layers)]
    config = AutoConfig.for_model(MODEL_TYPES.get(arch, arch), **settings)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return model


def tiny_tokenizer(words: int = 64) -> PreTrainedTokenizerFast:
    """Words w0 ... w63; w0 pads, w1 begins, w2 ends."""
    backend = Tokenizer(models.WordLevel({f"w{n}": n for n in range(words)}, unk_token="w3"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w2", pad_token="w0", bos_token="w1")


def tiny_loaded(seed: int = 0, layers: int = 2, words: int = 64, arch: str = "qwen2") -> LoadedModel:
    """A tiny model with its tokenizer."""
    return LoadedModel(tiny_model(arch, seed=seed, layers=layers), tiny_tokenizer(words), f"tiny-{seed}")
