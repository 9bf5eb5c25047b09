"""The trained Qwen2 models as Llama checkpoints: the same function, loadable with their own tokenizer.

`AutoTokenizer` gives every Qwen2 folder Qwen2's own pre-tokenizer, which splits numbers into digits. Llama with
attention biases computes the same (Qwen2 has none on the output projection: zeros here) and keeps the tokenizer's own.

Non-goals: models of other families.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

SAME = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act "
    "max_position_embeddings rms_norm_eps rope_parameters tie_word_embeddings initializer_range bos_token_id "
    "eos_token_id pad_token_id"
).split()


def as_llama(model: PreTrainedModel) -> LlamaForCausalLM:
    """A Llama model with the weights of a Qwen2 model; equal logits."""
    config = LlamaConfig(**{name: getattr(model.config, name) for name in SAME}, attention_bias=True)
    llama: LlamaForCausalLM = LlamaForCausalLM._from_config(config, dtype=model.dtype)
    own = llama.state_dict()
    weights = model.state_dict()
    for name in own.keys() - weights.keys():
        weights[name] = torch.zeros_like(own[name])  # biases of the output projections
    llama.load_state_dict(weights)
    llama.eval()
    return llama
