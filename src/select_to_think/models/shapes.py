"""Models of published shapes with random weights: timing needs the shape, not the knowledge."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from transformers.initialization import no_init_weights

from select_to_think.text import known_name

SIZES = (
    "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size "
    "tie_word_embeddings"
).split()
SHAPES = {
    "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 151936, True),
    "qwen2.5-1.5b": (1536, 8960, 28, 12, 2, 151936, True),
    "qwen2.5-7b": (3584, 18944, 28, 28, 4, 152064, False),
    "qwen2.5-32b": (5120, 27648, 64, 40, 8, 152064, False),
}
COMMON: dict[str, Any] = {"max_position_embeddings": 32768, "rope_theta": 1e6}


def random_model(shape: str, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """A model of that shape with small random weights, in eval mode.

    Raises:
        S2TError: an unknown shape, with the nearest one.
    """
    sizes: dict[str, Any] = dict(zip(SIZES, SHAPES[known_name("shape", shape, SHAPES)], strict=True))
    torch.manual_seed(0)
    with no_init_weights(), torch.device(device):
        model: PreTrainedModel = Qwen2ForCausalLM._from_config(Qwen2Config(**COMMON, **sizes), dtype=dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.fill_(1)
            else:
                weight.uniform_(-0.03, 0.03)
    model.tie_weights()
    model.eval()
    return model
