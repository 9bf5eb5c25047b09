"""The recipe's machinery on tiny models: growth keeps the function, runs are deterministic and resumable."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from recipe.__main__ import main
from recipe.card import CURVE_FILE, draw_curve
from recipe.growth import grow, respell
from recipe.recipes import BASE, LLM, SLM, Recipe
from recipe.tokenizer import train_tokenizer
from recipe.training import shortened, train_model
from select_to_think.structures import Progress, Stage, silent

TINY = replace(BASE, hidden_size=16, intermediate_size=16, layers=1, heads=2, steps=4, rows=2, warmup_steps=1)
TINY_SLM = replace(TINY, name="slm", steps=2, grown_from=TINY)
TINY_LLM = replace(
    TINY, name="llm", reader="llm", hidden_size=32, intermediate_size=32, layers=2, heads=4, grown_from=TINY
)


def shape(width: int, heads: int, layers: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=50,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )


def test_growth_keeps_the_function() -> None:
    torch.manual_seed(0)
    small = Qwen2ForCausalLM(shape(32, 2, 2)).eval()
    for name, weight in small.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(weight, 1, 0.3)
    large = grow(small, shape(64, 4, 3), seed=0).eval()
    ids = torch.randint(0, 50, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(large(ids).logits, small(ids).logits, atol=1e-4, rtol=1e-4)


def test_growth_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="doubles the width"):
        grow(Qwen2ForCausalLM(shape(32, 2, 2)), shape(96, 4, 2), seed=0)


def test_new_tokens_start_as_the_mean_of_their_old_spelling() -> None:
    words, digits = train_tokenizer("words"), train_tokenizer("digits")
    model = Qwen2ForCausalLM(replace(TINY, hidden_size=8).config(words))
    old = model.get_input_embeddings().weight.detach().clone()
    body = {name: weight.clone() for name, weight in model.state_dict().items() if "layers" in name}
    respelled = respell(model, words, digits)
    new = respelled.get_input_embeddings().weight
    assert new.shape == (len(digits), 8) and respelled.lm_head.weight is new
    assert torch.equal(new[digits.convert_tokens_to_ids("7")], old[words.convert_tokens_to_ids("7")])
    spellings = {token: words(digits.decode([token]), add_special_tokens=False).input_ids for token in range(300, 400)}
    token, spelling = next((token, spelling) for token, spelling in spellings.items() if len(spelling) > 1)
    assert torch.allclose(new[token], old[spelling].mean(0))
    assert torch.allclose(new[digits.convert_tokens_to_ids("ð")], old.mean(0))
    assert all(torch.equal(weight, respelled.state_dict()[name]) for name, weight in body.items())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def run(recipe: Recipe, out: Path, stage: Stage = silent) -> dict[str, torch.Tensor]:
    train_model(recipe, out, device="cpu", checkpoint_steps=2, stage=stage)
    return weights(out / recipe.name)


def test_a_run_repeats_and_resumes(tmp_path: Path) -> None:
    whole = run(TINY_SLM, tmp_path / "whole")
    seen: list[tuple[str, int, int]] = []

    def stage(name: str) -> AbstractContextManager[Progress]:
        return nullcontext(lambda done, total: seen.append((name, done, total)))

    assert same(whole, run(TINY_SLM, tmp_path / "again", stage))
    parts = (TINY, TINY_SLM)
    assert seen == [(f"training {p.name}", done, p.steps) for p in parts for done in range(1, p.steps + 1)]
    stopped = tmp_path / "stopped"
    run(TINY_SLM, stopped)
    last = stopped / "checkpoints" / "slm" / "checkpoint-2"
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    assert same(whole, run(TINY_SLM, stopped))


def test_the_llm_grows_from_the_slm_and_saves_a_standard_folder(tmp_path: Path) -> None:
    run(TINY_LLM, tmp_path)
    folder = tmp_path / "llm"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "README.md"} <= names
    assert {CURVE_FILE.format("base"), CURVE_FILE.format("llm")} <= names
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == [2, 0]


def test_the_recipe_is_clean_for_the_llm() -> None:
    assert (LLM.reader, SLM.reader) == ("llm", "slm")
    assert sum(LLM.shares.values()) == pytest.approx(1)


def test_a_shorter_recipe_is_shorter_in_every_stage() -> None:
    assert [stage.name for stage in SLM.stages] == ["base", "slm-letters", "slm"]
    assert [stage.steps for stage in shortened(SLM, 7).stages] == [7, 7, 7]
    assert shortened(SLM, None) is SLM


def test_a_curve_shows_its_plateau_and_an_empty_one_draws() -> None:
    assert draw_curve([]).startswith("<svg")
    drawn = draw_curve([(25, 9.0), (50, 1.0), (75, 1.0)])
    assert "M278.7 14.0L509.3 184.0L740.0 184.0" in drawn, "the first loss is cut off at twice the median"


def test_the_command_names_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    asked = []
    monkeypatch.setattr("recipe.training.train_model", lambda recipe, out, **_: asked.append((recipe.steps, out)))
    main(["--out", str(tmp_path), "--steps", "3"])
    assert capsys.readouterr().out.split() == [str(tmp_path / "slm"), str(tmp_path / "llm")]
    assert asked == [(3, tmp_path)] * 2
    for wrong in (["--which", "lm"], ["--steps", "0"]):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)
