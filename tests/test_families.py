"""Which architectures are accepted: those whose flat forwards say what their own forward says."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from drive import SMALL, backends_of, results_of
from select_to_think.config import DecodeConfig, PairConfig
from select_to_think.contexts.transformers_backend import TransformersBackend
from select_to_think.evaluation.plain import PlainModel, greedy
from select_to_think.models.loading import LoadedModel
from select_to_think.policies.base import Limits
from select_to_think.policies.greedy import Greedy
from select_to_think.session import Session
from select_to_think.structures import PromptTooLong, S2TError
from tiny import tiny_model, tiny_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "head_dim": 8, "n_embd": 32, "n_layer": 2, "n_head": 4,
    "n_positions": 512, "d_model": 32, "num_layers": 2, "num_heads": 4, "num_experts": 4, "num_local_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "encoder_layers": 2, "decoder_layers": 2, "ffn_dim": 64,
    "word_embed_proj_dim": 32, "attention_types": [[["global", "local"], 1]], "sliding_window": 8,
    "query_pre_attn_scalar": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PROMPTS = [list(range(3, 3 + n)) for n in (3, 17, 1, 30)]


def model_of(kind: str) -> PreTrainedModel:
    own = AutoConfig.for_model(kind).to_dict()
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{name: value for name, value in SIZES.items() if name in own})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model


@pytest.mark.parametrize(
    "kind",
    ["cohere2", "gemma2", "glm4", "gpt2", "gpt_oss", "granite", "mixtral", "olmo2", "opt", "qwen2_moe", "smollm3"],
)
def test_accepted_families_decode_as_their_own_forward(kind: str) -> None:
    """Soft-capping, attention sinks, sliding windows, experts, scaled and capped heads, learned positions."""
    model = model_of(kind)
    limits = Limits(frozenset({2}), 12)
    results = results_of(backends_of({"slm": model}), (Greedy(limits).run(p, "") for p in PROMPTS))
    assert [list(r.tokens) for r in results] == [greedy(PlainModel(model), p, 12, {2}) for p in PROMPTS]


@pytest.mark.parametrize("kind", ["bart", "bloom", "falcon", "gpt_neo", "mpt", "mamba"])
def test_others_are_refused_in_one_line_that_says_why(kind: str) -> None:
    with pytest.raises(S2TError, match=r"differ by|attention|unsupported|NoneType|rolled back") as error:
        TransformersBackend(model_of(kind), config=SMALL)
    assert kind in str(error.value) and "choose" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("broken", ["positions", "head"])
def test_the_check_sees_what_it_is_for(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    if broken == "head":
        own = model.forward
        monkeypatch.setattr(model, "forward", lambda *a, **k: scaled(own(*a, **k)))
    else:
        rotary = model.model.rotary_emb
        own_rotary = rotary.forward
        monkeypatch.setattr(rotary, "forward", lambda x, position_ids: own_rotary(x, position_ids * 0 + 1))
        base = model.forward
        monkeypatch.setattr(model, "forward", lambda *a, **k: with_rotary(base, rotary, own_rotary, a, k))
    with pytest.raises(S2TError, match=r"differ by .* nats from its plain forward"):
        TransformersBackend(model, config=SMALL)


@pytest.mark.parametrize(
    ("dtype", "head", "nats", "accepted"),
    [
        (torch.bfloat16, 1, 1.0, False),
        (torch.bfloat16, 100, 1.0, True),
        (torch.bfloat16, 100, 3.0, False),
        (torch.float32, 100, 1.0, False),
    ],
)
def test_what_half_types_round_is_no_difference(
    dtype: torch.dtype, head: float, nats: float, accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits in the hundreds come in steps of one or two nats in bfloat16."""
    model = tiny_model("llama", scale=1.0).to(dtype)
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 0.2 * head)
    own = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: moved(own(*a, **k), nats))
    with nullcontext() if accepted else pytest.raises(S2TError, match="differ by"):
        TransformersBackend(model, config=SMALL)


def moved(out: Any, nats: float) -> Any:
    out.logits = out.logits.float() + torch.arange(out.logits.shape[-1]) % 2 * nats
    return out


def scaled(out: Any) -> Any:
    out.logits = out.logits * 0.5
    return out


def with_rotary(base: Any, rotary: Any, own: Any, args: Any, settings: Any) -> Any:
    broken, rotary.forward = rotary.forward, own
    try:
        return base(*args, **settings)
    finally:
        rotary.forward = broken


def test_rows_never_reach_the_positions_at_which_the_rotary_factors_change() -> None:
    """`longrope` takes other factors for a whole forward as soon as one row is past the original length."""
    config = AutoConfig.for_model(
        "phi3",
        **{name: SIZES[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")},
        **{name: SIZES[name] for name in ("num_attention_heads", "num_key_value_heads", "pad_token_id")},
        max_position_embeddings=256,
        original_max_position_embeddings=64,
        eos_token_id=2,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 64,
        },
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    loaded = LoadedModel(model, tiny_tokenizer(), "tiny-longrope")
    assert loaded.max_positions == 64
    session = Session(PairConfig(), slm=loaded)
    with pytest.raises(PromptTooLong, match=r"context of 64 tokens .* rotary factors"):
        session.generate(["w5 " * 50], "greedy", DecodeConfig(max_new_tokens=30))
    (answer,) = session.generate(["w5 " * 20], "greedy", DecodeConfig(max_new_tokens=20))
    assert list(answer.tokens) == greedy(PlainModel(model), session.prompt("w5 " * 20, 20, with_llm=False), 20, {2})
