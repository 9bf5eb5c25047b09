"""With a preset our decisions are those of the published loops (`tests/published.py`), token for token."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import published
from drive import attached, backends_of, results_of
from published import WARM_UP, Writer
from select_to_think.config import DecodeConfig, MentorConfig, PairConfig, SelectConfig
from select_to_think.evaluation.calibrate import calibrate, calibrate_coupled, save_calibration
from select_to_think.evaluation.items import Item, load_pair_split
from select_to_think.evaluation.plain import PlainModel
from select_to_think.models.layers import apply_layers, fold
from select_to_think.models.verifier import read_published
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.policies.base import Limits, Task
from select_to_think.policies.block_verified import BlockVerified
from select_to_think.policies.select import Select
from select_to_think.selectors.llm import LLMSelector
from select_to_think.session import Session
from select_to_think.structures import S2TError
from select_to_think.training.verifier import new_network, take_published
from select_to_think.triggers.entropy import ENTROPY_PAPER
from select_to_think.triggers.kl import KL_PAPER
from tiny import ARCHITECTURES, tiny_loaded, tiny_model
from training_fixtures import write_scorer

LIMITS = Limits(frozenset({2}), 24)
PROMPTS = [list(range(3, 3 + n)) for n in (3, 17, 1, 30, 9)]
DECODE = DecodeConfig(max_new_tokens=24)
ITEMS = [Item(f"i{n}", f"w{3 + n % 60} w{3 + 7 * n % 60} w{n % 9 + 5}", "w5") for n in range(12)]
PAPER = SelectConfig.preset("s2t-paper", trigger_budget=0.2)
STATISTICS = {"kl-paper": published.kl, "entropy-paper": published.entropy}


@pytest.fixture(scope="module")
def bundled() -> Session:
    return Session.load()


@pytest.fixture(scope="module")
def problems() -> list[str]:
    return [item.question for item in load_pair_split("validation", limit_per_domain=2)]


@pytest.mark.parametrize("kind", [KL_PAPER, ENTROPY_PAPER])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_s2t_and_takeover_are_the_published_loop(arch: str, kind) -> None:
    pair = {"slm": tiny_model(arch), "llm": tiny_model(arch, seed=1, layers=3)}
    plain = PlainModel(pair["slm"]), PlainModel(pair["llm"])

    def run(policy):
        return results_of(backends_of(pair), (policy.run(p, "seed") for p in PROMPTS))

    probe = run(Select(LIMITS, kind.at(math.inf), LLMSelector(), 8))
    trigger = kind.at(median(step.statistic for r in probe for step in r.steps), WARM_UP)
    for takeover in (False, True):
        pick = published.take_over if takeover else published.rerank
        expected = [
            published.select_to_think(*plain, p, 24, {2}, STATISTICS[kind.name], trigger.threshold, pick)
            for p in PROMPTS
        ]
        for form in (Select, BlockVerified) if kind.needs_llm else (Select,):
            found = run(form(LIMITS, trigger, LLMSelector(takeover), 8))
            assert [list(r.tokens) for r in found] == [tokens for tokens, _ in expected]
            assert [[i for i, s in enumerate(r.steps) if s.fired] for r in found] == [fired for _, fired in expected]
        assert sum(len(fired) for _, fired in expected) > 10, "the law says nothing without triggered steps"


def test_a_begun_answer_has_its_warm_up_behind_it() -> None:
    pair = {"slm": tiny_model("qwen2"), "llm": tiny_model("qwen2", seed=1)}
    always = Select(LIMITS, KL_PAPER.at(-math.inf, WARM_UP), LLMSelector(), 8)

    def fired(begun: int) -> list[bool]:
        policy = always.about(Task("", lambda _: None, begun))
        return [s.fired for s in results_of(backends_of(pair), [policy.run([3, 4, 5], "")])[0].steps]

    for begun in (0, 1, 3, 9):
        assert fired(begun)[:4] == [number + begun >= WARM_UP for number in range(4)]


@pytest.mark.parametrize("name", ["kl-paper", "entropy-paper"])
def test_thresholds_are_quantiles_of_the_published_statistic_behind_the_warm_up(name: str) -> None:
    session = Session(slm=tiny_loaded(0), llm=tiny_loaded(1, 3))
    session.calibration = calibrate(session, ITEMS, decode=DECODE)
    models = PlainModel(session.slm.model), PlainModel(session.llm.model)
    values: dict[int, list[float]] = {0: [], WARM_UP: []}
    for item in ITEMS:
        prompt, out = session.prompt(item.question, 1, with_llm=True), []
        while len(out) < DECODE.max_new_tokens and not (out and out[-1] in session.stop_ids):
            small, large = (model([*prompt, *out]) for model in models)
            for first, found in values.items():
                if len(out) >= first:
                    found.append(STATISTICS[name](small, large))
            out.append(int(small.argmax()))
    for warm_up, found in values.items():
        threshold = session.trigger(name, 0.2, warm_up_steps=warm_up).threshold
        assert threshold == pytest.approx(np.quantile(found, 0.8), abs=1e-4)
    assert session.trigger(name, 0.2).threshold != session.trigger(name, 0.2, warm_up_steps=WARM_UP).threshold
    assert session.trigger(name, 0.2).threshold != session.trigger(name.removesuffix("-paper"), 0.2).threshold


def test_thresholds_of_another_definition_are_never_used() -> None:
    session = Session(slm=tiny_loaded(0), llm=tiny_loaded(1, 3))
    whole = calibrate(session, ITEMS, decode=DECODE)
    session.calibration = replace(whole, quantiles={n: v for n, v in whole.quantiles.items() if "-" not in n})
    with pytest.raises(S2TError, match=r"the kl-paper trigger is not calibrated .* `s2t calibrate`"):
        session.generate(["w5"], "s2t", DECODE, replace(PAPER, warm_up_steps=0))
    session.calibration = replace(whole, after_warm_up={})
    with pytest.raises(S2TError, match="behind a warm-up of 3 steps: run `s2t calibrate`"):
        session.generate(["w5"], "s2t", DECODE, PAPER)
    with pytest.raises(S2TError, match="a warm-up of 0 or 3 steps, not 2"):
        session.generate(["w5"], "s2t", DECODE, replace(PAPER, warm_up_steps=2))
    assert session.generate(["w5"], "s2t", DECODE, replace(PAPER, warm_up_steps=2, trigger="random"))[0].tokens


def with_bins(model, rows: torch.Tensor):
    """The model with reserved ids at the end of its head, whose logits are the bins."""
    head = model.get_output_embeddings()
    longer = nn.Linear(head.in_features, len(head.weight) + len(rows), bias=False)
    longer.weight = nn.Parameter(torch.cat([head.weight.detach(), rows]))
    model.set_output_embeddings(longer)
    return model, range(len(head.weight), len(longer.weight))


def test_s2t_local_is_the_published_loop(tmp_path: Path) -> None:
    folder = write_scorer(tmp_path / "scorer", tiny_loaded(0), "coupled", "bins")
    session = Session(PairConfig(scorer=str(folder)), slm=tiny_loaded(0))
    save_calibration(calibrate_coupled(session, ITEMS, decode=DECODE), folder / "calibration.json")
    questions = [item.question for item in ITEMS[:6]]
    found = session.generate(questions, "s2t-local", DECODE, PAPER)
    scorer, other = session.scorer(PAPER), tiny_loaded(0)
    attached(other, folder).set_active(True)
    model, reserved = with_bins(other.model, scorer.bin_rows)
    slm = PlainModel(model, [*reserved, *reserved_ids(session.slm)])
    threshold = session.trigger("entropy-paper", 0.2, scorer, WARM_UP).threshold
    pick = published.score_by(slm, reserved)
    for question, answer in zip(questions, found, strict=True):
        prompt = session.prompt(question, 24, with_llm=False)
        tokens, fired = published.select_to_think(
            slm, slm, prompt, 24, session.stop_ids, published.entropy, threshold, pick
        )
        assert list(answer.tokens) == tokens and [i for i, s in enumerate(answer.steps) if s.fired] == fired
    assert sum(answer.flip_count for answer in found) > 3


@pytest.mark.parametrize("method", ["takeover", "s2t", "s2t-local"])
def test_the_bundled_pair_decides_as_the_published_loop(bundled, problems, method: str) -> None:
    select = SelectConfig.preset("s2t-paper", trigger_budget=0.1)
    local = method == "s2t-local"
    found = bundled.generate(problems, method, DecodeConfig(), select)
    name = "entropy-paper" if local else "kl-paper"
    scorer = bundled.scorer(select) if local else None
    threshold = bundled.trigger(name, select.trigger_budget, scorer, WARM_UP).threshold
    slm, llm = (PlainModel(each.model, sorted(reserved_ids(each))) for each in (bundled.slm, bundled.llm))
    pick = {"takeover": published.take_over, "s2t": published.rerank}.get(method)
    if scorer is not None:
        other = Session.load().slm
        attached(other, scorer.path).set_active(True)
        model, reserved = with_bins(other.model, scorer.bin_rows)
        slm = llm = PlainModel(model, [*reserved, *reserved_ids(bundled.slm)])
        pick = published.score_by(slm, reserved)
    for question, answer in zip(problems, found, strict=True):
        prompt = bundled.prompt(question, 128, with_llm=False)
        tokens, fired = published.select_to_think(
            slm, llm, prompt, 128, bundled.stop_ids, STATISTICS[name], threshold, pick
        )
        assert list(answer.tokens) == tokens and [i for i, s in enumerate(answer.steps) if s.fired] == fired
    assert sum(answer.fired_count for answer in found) > 3


def writers(session: Session) -> tuple[Writer, Writer]:
    return tuple(Writer(each, session.stop_ids, sorted(reserved_ids(each))) for each in (session.slm, session.llm))


def running(session: Session, question: str) -> tuple[str, Random]:
    """The prompt as text, and our draws."""
    ids = session.prompt(question, 128, with_llm=True)
    return session.slm.tokenizer.decode(ids), Random(f"0/{ids}")


@pytest.fixture(scope="module")
def disputed() -> list[str]:
    """Problems over which the two models differ."""
    items = load_pair_split("validation", limit_per_domain=12)
    return [items[number].question for number in (4, 10, 28)]


def test_mentor_free_is_the_published_loop(bundled, disputed) -> None:
    preset = MentorConfig.preset("mentorcollab-paper", consult_rate=0.9)
    found = bundled.generate(disputed, "mentor-free", DecodeConfig(), SelectConfig(), preset)
    slm, llm = writers(bundled)
    for question, answer in zip(disputed, found, strict=True):
        prompt, random = running(bundled, question)
        assert answer.text == published.mentor(slm, llm, prompt, 128, 0.9, random, published.free(slm))
    choices = sum(r.counts.mentor_choices for r in found)
    assert 0 < choices < sum(r.counts.disagreements for r in found), "the law says nothing without both choices"


class PublishedNetwork(nn.Module):
    """As `torchvision.ops.MLP` and a last layer: norms, ReLU and dropout behind all hidden layers but the last."""

    def __init__(self, hidden: int, sizes: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in sizes[:-1]:
            layers += [nn.Linear(hidden, size), nn.BatchNorm1d(size), nn.ReLU(), nn.Dropout(0.1)]
            hidden = size
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, sizes[-1]), nn.Dropout(0.1))
        self.linear = nn.Linear(sizes[-1], 1)

    def forward(self, hidden):
        return self.linear(self.mlp(hidden))[:, 0].sigmoid()  # above 0.5: A


def network(hidden: int, sizes: list[int]) -> PublishedNetwork:
    torch.manual_seed(1)
    made = PublishedNetwork(hidden, sizes)
    for _ in range(4):
        made(2 * torch.randn(32, hidden) + 1)  # statistics of the norms
    return made.eval()


@pytest.mark.parametrize("sizes", [[64, 32, 16], [16]])
def test_a_published_network_loads(tmp_path: Path, sizes: list[int]) -> None:
    made, slm = network(32, sizes), tiny_loaded(0)
    save_file(made.state_dict(), tmp_path / "head.safetensors")
    hidden = torch.randn(20, 32)
    with torch.no_grad():
        expected = -torch.logit(made(hidden).double())  # the log-odds of B
    found = apply_layers(read_published(tmp_path / "head.safetensors", slm), hidden.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("spoil", [lambda s: s.pop("mlp.0.bias"), lambda s: s.pop("linear.weight"),
                                   lambda s: s.update({"other.weight": torch.ones(2, 2)}),
                                   lambda s: s.update({"mlp.0.weight": torch.ones(64, 31)})])  # fmt: skip
def test_a_damaged_published_network_is_one_line(tmp_path: Path, spoil) -> None:
    state = network(32, [64, 32, 16]).state_dict()
    spoil(state)
    save_file(state, tmp_path / "head.safetensors")
    with pytest.raises(S2TError, match=r"head\.safetensors does not"):
        read_published(tmp_path / "head.safetensors", tiny_loaded(0))


def test_the_published_form_is_what_its_training_makes() -> None:
    torch.manual_seed(0)
    made, hidden = new_network(8, "paper"), torch.randn(64, 8)
    for _ in range(3):
        made(hidden + 1)
    made.eval()
    with torch.no_grad():
        logits = made(hidden)[:, 0]
    np.testing.assert_allclose(apply_layers(fold(made), hidden.numpy()), logits.numpy(), atol=1e-5)
    assert [weight.shape for weight, _ in fold(made)] == [(16, 8), (8, 16), (1, 8)]
    assert sum(isinstance(each, nn.BatchNorm1d) for each in made) == 2


def test_mentor_mlp_with_a_published_network_is_the_published_loop(bundled, disputed, tmp_path: Path) -> None:
    width = bundled.slm.model.config.hidden_size
    made = network(width, [2 * width, width, width // 2])
    save_file(made.state_dict(), tmp_path / "head.safetensors")
    preset = MentorConfig.preset("mentorcollab-paper", consult_rate=0.9)
    take_published(bundled, tmp_path / "head.safetensors", preset, tmp_path / "verifier")
    config = PairConfig(verifier=str(tmp_path / "verifier"))
    session = Session(config, slm=bundled.slm, llm=bundled.llm)
    found = session.generate(disputed, "mentor-mlp", DecodeConfig(), SelectConfig(), preset)
    slm, llm = writers(bundled)

    @torch.inference_mode()
    def judge(asked: str) -> bool:
        ids = torch.tensor([slm.tokenizer(asked, add_special_tokens=False).input_ids])
        return float(made(bundled.slm.model.base_model(ids).last_hidden_state[:, -1])) <= 0.5

    for question, answer in zip(disputed, found, strict=True):
        prompt, random = running(bundled, question)
        assert answer.text == published.mentor(slm, llm, prompt, 128, 0.9, random, judge)
    assert sum(r.counts.disagreements for r in found) > 1
    with pytest.raises(S2TError, match="another prompt"):
        session.generate(disputed, "mentor-mlp")
    assert json.loads((tmp_path / "verifier" / "verifier.json").read_text())["opening"] is None
    with pytest.raises(S2TError, match="already exists"):
        take_published(bundled, tmp_path / "head.safetensors", preset, tmp_path / "verifier")
