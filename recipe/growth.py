"""Starts a model from a smaller trained one: other tokens, twice the width, more layers.

Growing does not change what the model computes.

Attention that looks things up appeared early in the narrow model, and not at all in wide ones that were trained from
random weights for as long, so the LLM starts as the SLM, widened (Net2Net, Chen et al. 2016, arXiv 1511.05641). Every
unit is doubled; each outgoing weight is split at random between the two copies, which keeps the function and lets the
copies part ways. New layers come last and start as the identity. A new tokenizer changes the embeddings alone: each
token starts as the mean of the old tokens that spell it.

Non-goals: other factors than two, untied heads.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM


@torch.no_grad()
def grow(small: Qwen2ForCausalLM, config: Qwen2Config, seed: int) -> Qwen2ForCausalLM:
    """A model of shape `config` that gives the logits of `small`.

    `config` has twice the width and twice the heads of `small` and at least its layers; the MLP width doubles too.
    """
    if config.hidden_size != 2 * small.config.hidden_size or config.num_attention_heads != 2 * (
        small.config.num_attention_heads or 0
    ):
        raise ValueError("growth doubles the width and the heads: the two shapes do not fit")
    large: Qwen2ForCausalLM = Qwen2ForCausalLM._from_config(config, attn_implementation="eager", dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    grown = large.state_dict()
    for name, weight in small.state_dict().items():
        grown[name] = _grow_tensor(name, weight, grown[name], generator)
    for layer in range(small.config.num_hidden_layers, config.num_hidden_layers):
        for output in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
            grown[f"model.layers.{layer}.{output}"] = torch.zeros_like(grown[f"model.layers.{layer}.{output}"])
    large.load_state_dict(grown)
    large.tie_weights()
    return large


@torch.no_grad()
def respell(model: Qwen2ForCausalLM, old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """`model` (tied head) with the vocabulary of `new` in place of that of `old`; the rest of its weights is kept.

    A byte sequence that is no text by itself has no old spelling: its row is the mean of all rows.
    """
    rows = model.model.embed_tokens.weight.detach().clone()  # (V_old, H)
    model.resize_token_embeddings(len(new))
    fresh = model.model.embed_tokens.weight  # (V_new, H)
    for token in range(len(new)):
        text = new.decode([token])
        spelling = [] if "\N{REPLACEMENT CHARACTER}" in text else old(text, add_special_tokens=False)["input_ids"]
        fresh[token] = rows[spelling].mean(0) if spelling else rows.mean(0)
    return model


def _grow_tensor(name: str, weight: torch.Tensor, fresh: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if name == "model.norm.weight":
        return torch.cat([weight, weight]) / 2  # the tied head sums over both copies
    if weight.dim() == 1:
        return torch.cat([weight, weight])  # (2 * out,)
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return torch.cat([weight, weight], dim=1)  # (V, 2 * H)
    share = 0.25 + 0.5 * torch.rand(2 * weight.shape[0], weight.shape[1], generator=generator)
    doubled = torch.cat([weight, weight])  # (2 * out, in)
    grown = torch.cat([doubled * share, doubled * (1 - share)], dim=1)  # (2 * out, 2 * in)
    if grown.shape != fresh.shape:
        raise ValueError(f"{name}: {tuple(grown.shape)} does not fit {tuple(fresh.shape)}")
    return grown
