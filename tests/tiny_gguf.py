"""Tiny models of `tiny.py` as GGUF files of 32-bit floats, written with the `gguf` package alone."""

from __future__ import annotations

from pathlib import Path

import gguf
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from select_to_think.models.gguf import FINGERPRINT, ROTATED, LoadedGGUF, load_gguf, rotary_halves_joined
from tiny import tiny_tokenizer


def write_gguf(file: Path, model: PreTrainedModel, fingerprint: str | None = None) -> None:
    """Write the model without a vocabulary, which only its folder has."""
    config = model.config
    arch = config.model_type
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    writer = gguf.GGUFWriter(file, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    if fingerprint:
        writer.add_string(FINGERPRINT, fingerprint)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        layer = name.split(".")[-2]
        values = weight.float()
        if ROTATED[arch] and layer in heads:
            values = rotary_halves_joined(values.reshape(len(values), -1), heads[layer]).reshape(values.shape)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), values.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tiny_gguf(folder: Path, model: PreTrainedModel, fingerprint: str | None = None) -> LoadedGGUF:
    """The model through llama.cpp, with its configuration and tokenizer beside it."""
    model.config.save_pretrained(folder)
    tokenizer = tiny_tokenizer(model.config.vocab_size)
    assert isinstance(tokenizer.backend_tokenizer, Tokenizer)
    tokenizer.save_pretrained(folder)
    file = folder / "model.gguf"
    write_gguf(file, model, fingerprint)
    return load_gguf(str(file))
