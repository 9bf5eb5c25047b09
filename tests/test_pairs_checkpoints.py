"""The shipped checkpoints: standard folders, one tokenizer, within the size budget, saying what their text holds."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

import select_to_think.pairs
from recipe.llama_form import as_llama
from recipe.problems import stream_puzzles
from recipe.recipes import RECIPES
from recipe.tokenizer import RESERVED, train_tokenizer
from recipe.writers import MISREADING_SHARES
from select_to_think.pairs.problems import load_split

DEMO = Path(select_to_think.pairs.__file__).parent / "demo"
PAIR = ("slm", "llm")
BUDGET_BYTES = 25_000_000


@pytest.mark.parametrize("name", PAIR)
def test_a_checkpoint_loads_and_stops(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(DEMO / name)
    tokenizer = AutoTokenizer.from_pretrained(DEMO / name)
    (problem, *_) = load_split("validation", limit_per_domain=1)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem.question}], add_generation_prompt=True, return_tensors="pt"
    )
    written = model.generate(**prompt, max_new_tokens=100)[0, prompt["input_ids"].shape[1] :]
    assert written[-1] == tokenizer.eos_token_id
    assert "The answer is" in tokenizer.decode(written)
    assert not set(tokenizer.convert_tokens_to_ids(list(RESERVED))) & set(written.tolist())


def test_both_checkpoints_hold_the_tokenizer_that_the_recipe_trains() -> None:
    recipe = train_tokenizer("words")
    trained = recipe.get_vocab()
    text = "Today Ann has 0 pens, 7 more than 199. " + " ".join(map(str, range(200)))
    for name in PAIR:
        tokenizer = AutoTokenizer.from_pretrained(DEMO / name)
        assert tokenizer.get_vocab() == trained
        assert tokenizer.tokenize(" has 123 fewer pens.")[1:3] == ["Ġ123", "Ġfewer"]
        assert tokenizer(text).input_ids == recipe(text).input_ids
        assert all(len(tokenizer(form).input_ids) == 1 for n in range(200) for form in (f"{n}", f" {n}"))
        config = json.loads((DEMO / name / "config.json").read_text())
        assert (config["vocab_size"], config["eos_token_id"]) == (len(trained), tokenizer.eos_token_id)


def test_the_llama_form_computes_what_the_trained_model_computes() -> None:
    config = replace(RECIPES["slm"], hidden_size=32, intermediate_size=48, layers=2).config(train_tokenizer("words"))
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(as_llama(model)(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)


def test_the_slm_goes_on_when_an_order_is_listed_from_the_end_that_it_would_not_choose() -> None:
    model, tokenizer = (kind.from_pretrained(DEMO / "slm") for kind in (AutoModelForCausalLM, AutoTokenizer))
    listings = [p for p in islice(stream_puzzles("logic", "validation"), 120) if p.spots == ("direction",)]
    ranks = []
    for puzzle in listings:
        turn = [{"role": "user", "content": puzzle.question}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True).input_ids
        chain = tokenizer(puzzle.solve().text).input_ids
        with torch.no_grad():
            said = model(torch.tensor([prompt + chain])).logits[0, len(prompt) - 1 : -1]  # (P, V)
        ranks += [int((row > row[right]).sum()) for row, right in zip(said, chain, strict=True)]
    assert len(listings) > 15
    assert sum(rank < 8 for rank in ranks) / len(ranks) > 0.99


def test_every_scorer_is_what_its_folder_is_called_after() -> None:
    scorers = sorted((DEMO / "scorers").iterdir())
    calibrated = json.loads((DEMO / "calibration.json").read_text())["slm_fingerprint"]
    assert scorers
    for folder in scorers:
        about = json.loads((folder / "scorer.json").read_text())
        assert f"{about['mode']}-{about['score']}" == folder.name
        assert about["slm_fingerprint"] == calibrated


def test_size_budget() -> None:
    assert sum(path.stat().st_size for name in PAIR for path in (DEMO / name).rglob("*")) <= BUDGET_BYTES


def test_cards_state_the_mistakes_and_the_curve() -> None:
    slm, llm = ((DEMO / name / "README.md").read_text() for name in ("slm", "llm"))
    for kind, share in MISREADING_SHARES.items():
        assert f"| {kind} | {share:.0%} |" in slm
    assert "The LLM's text is clean" in llm
    for name in PAIR:
        logs = json.loads((DEMO / name / "training_log.json").read_text())
        for stage in RECIPES[name].stages:
            assert logs[stage.name][-1]["step"] == stage.steps
            assert (DEMO / name / f"training_curve_{stage.name}.svg").is_file()
