"""A model is read whole or not at all: what its checkpoint lacks, holds besides or holds in part is one line."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from select_to_think.cli.app import main
from select_to_think.models.loading import choose_dtype, load_model
from select_to_think.structures import S2TError
from tiny import tiny_model, tiny_tokenizer

Weights = dict[str, Tensor]
WHOLE = 10**9
SHARD_BYTES = 20_000
NORM, GATE = "model.layers.0.input_layernorm.weight", "model.layers.1.mlp.gate_proj.weight"
EXPERT = "model.layers.0.mlp.experts.0.down_proj.weight"


def write(folder: Path, model: PreTrainedModel, shard: int = WHOLE) -> Path:
    model.save_pretrained(folder, max_shard_size=shard)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def change(folder: Path, tensor: str, edit: Callable[[Weights], object]) -> None:
    """Edit the file of `folder` that holds `tensor`."""
    path, weights = next((p, w) for p in sorted(folder.glob("*.safetensors")) if tensor in (w := load_file(p)))
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})


def experts() -> PreTrainedModel:
    """A mixture whose experts are tensors of their own in the checkpoint and one tensor in the model."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", vocab_size=64, **sizes, **heads))


def refusal(folder: Path) -> str:
    with pytest.raises(S2TError) as raised:
        load_model(str(folder), device="cpu")
    line = str(raised.value)
    assert "\n" not in line and str(folder) in line and line.endswith("download or save it again")
    return line


@pytest.mark.parametrize("shard", [WHOLE, SHARD_BYTES])
@pytest.mark.parametrize(
    ("tensor", "edit", "said"),
    [
        (GATE, lambda weights: weights.pop(GATE), f"1 missing ({GATE})"),
        (NORM, lambda weights: weights.update(extra=torch.ones(2)), "1 unexpected (extra)"),
        (NORM, lambda w: w.update({NORM: torch.ones(5)}), f"1 of another shape ({NORM} (5,) for (32,))"),
        (NORM, lambda w: w.update(odd=w.pop(NORM)), f"1 missing ({NORM}), 1 unexpected (odd)"),
    ],
    ids=["missing", "unexpected", "misfitting", "renamed"],
)
def test_every_tensor_must_be_there_and_fit(
    tmp_path: Path,
    shard: int,
    tensor: str,
    edit: Callable[[Weights], object],
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = write(tmp_path / "model", tiny_model("qwen2"), shard)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard == SHARD_BYTES)
    change(folder, tensor, edit)
    assert said in refusal(folder)
    assert "LOAD REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize("shard", [WHOLE, SHARD_BYTES])
@pytest.mark.parametrize("left", [0, 4, 400, -1])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, shard: int, left: int) -> None:
    folder = write(tmp_path / "model", tiny_model("qwen2"), shard)
    path = sorted(folder.glob("*.safetensors"))[-1]
    path.write_bytes(path.read_bytes()[:left])
    assert str(path) in refusal(folder)


@pytest.mark.parametrize("arch", ["qwen2", "qwen3", "gemma3"])
def test_a_checkpoint_without_a_tokenizer_is_refused(arch: str, tmp_path: Path) -> None:
    tiny_model(arch).save_pretrained(tmp_path)
    with pytest.raises(S2TError, match=r"there is no tokenizer|tokenizer"):
        load_model(str(tmp_path))


def test_every_cpu_is_a_cpu() -> None:
    assert choose_dtype("auto", "cpu:0") == torch.float32


def test_a_lost_shard_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", tiny_model("qwen2"), SHARD_BYTES)
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(S2TError, match=re.escape(lost.name)):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize("verbosity", [logging.ERROR, logging.INFO])
@pytest.mark.parametrize("edit", [lambda w: w.pop(EXPERT), lambda w: w.update({EXPERT: torch.ones(1, 16)})])
def test_an_expert_that_is_missing_or_misfits_is_named(
    tmp_path: Path, edit: Callable[[Weights], object], verbosity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "level", verbosity)
    folder = write(tmp_path / "model", experts())
    change(folder, EXPERT, edit)
    assert "model.layers.0.mlp.experts.down_proj" in refusal(folder)


def test_the_first_of_many_are_named_with_their_number(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", tiny_model("qwen2"))
    change(folder, NORM, lambda weights: [weights.pop(name) for name in sorted(weights) if "mlp" in name])
    line = refusal(folder)
    assert "6 missing (model.layers.0.mlp.down_proj.weight, " in line and "..." in line and line.count("mlp") == 3


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_tied_weight_may_be_there_once(tmp_path: Path, kept: str) -> None:
    model = tiny_model("qwen2", tie=True)
    folder = write(tmp_path / "model", model)
    change(folder, NORM, lambda weights: weights.update({kept: weights.pop("model.embed_tokens.weight")}))
    again = load_model(str(folder), device="cpu").model
    assert torch.equal(again.get_output_embeddings().weight, model.get_input_embeddings().weight)
    change(folder, NORM, lambda weights: weights.pop(kept))
    assert "2 missing (lm_head.weight, model.embed_tokens.weight)" in refusal(folder)


def test_buffers_of_old_checkpoints_do_not_count(tmp_path: Path) -> None:
    folder = write(tmp_path / "llama", tiny_model("llama"))
    change(folder, NORM, lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    assert load_model(str(folder), device="cpu").model.config.model_type == "llama"
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 4}
    config = AutoConfig.for_model("gpt_neo", **sizes, attention_types=[[["global", "local"], 1]])
    folder, layer = write(tmp_path / "neo", AutoModelForCausalLM.from_config(config)), "transformer.h.0."
    masks = {f"{layer}attn.attention.{name}": torch.ones(1) for name in ("bias", "masked_bias")}
    change(folder, f"{layer}ln_1.weight", lambda weights: weights.update(masks))
    assert load_model(str(folder), device="cpu").model.config.model_type == "gpt_neo"
    real = f"{layer}attn.attention.q_proj.bias"
    change(folder, f"{layer}ln_1.weight", lambda weights: weights.update({real: torch.ones(32)}))
    assert f"1 unexpected ({real})" in refusal(folder)


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "model", tiny_model("qwen2"))
    change(folder, NORM, lambda weights: weights.pop(NORM))
    assert main(["generate", "w5", "--method", "greedy", "--slm", str(folder)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("error: ") and err.count(NORM) == 1


def test_a_whole_checkpoint_loads_without_a_word(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    library = logging.getLogger("transformers")
    library.addHandler(handler)
    try:
        load_model(str(tmp_path))
    finally:
        library.removeHandler(handler)
    assert said == []
