"""Models of published shapes with random weights: timing needs the shape, not the knowledge."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from transformers.initialization import no_init_weights

from select_to_think.structures import unknown_name

COMMON: dict[str, Any] = {"vocab_size": 151936, "max_position_embeddings": 32768, "rope_theta": 1e6}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "qwen2.5-1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "qwen2.5-7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "qwen2.5-32b": {
        "vocab_size": 152064,
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
    },
}


def random_model(shape: str, device: str, dtype: torch.dtype, seed: int = 0) -> PreTrainedModel:
    """A model of that shape with small random weights, in eval mode.

    Raises:
        S2TError: an unknown shape, with the nearest one.
    """
    if shape not in SHAPES:
        raise unknown_name("shape", shape, SHAPES)
    torch.manual_seed(seed)
    with no_init_weights(), torch.device(device):
        model: PreTrainedModel = Qwen2ForCausalLM._from_config(Qwen2Config(**(COMMON | SHAPES[shape])), dtype=dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.fill_(1)
            else:
                weight.uniform_(-0.03, 0.03)
    model.tie_weights()
    model.eval()
    return model
