"""Thresholds belong to the model that proposes: in coupled mode that is the SLM with the scorer's adapter on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from drive import attached
from select_to_think.cli.app import main
from select_to_think.config import DecodeConfig, EvalSettings, PairConfig, SelectConfig
from select_to_think.evaluation.calibrate import calibrate, calibrate_coupled, save_calibration
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.runner import evaluate
from select_to_think.models.loading import LoadedModel, load_model
from select_to_think.pairs.problems import load_split
from select_to_think.session import Session
from select_to_think.structures import S2TError
from tiny import tiny_model, tiny_tokenizer
from training_fixtures import write_scorer

DECODE = DecodeConfig(max_new_tokens=24)
BUDGET = 0.2
CALIBRATED = {"entropy", "entropy-paper", "margin"}
COLLECTION = Path(__file__).parents[1] / "src/select_to_think/pairs/demo/collection"


def items(first: int, count: int) -> list[Item]:
    return [Item(f"i{n}", f"w{3 + n % 60} w{3 + 7 * n % 60} w{n % 9 + 5}", "w5") for n in range(first, first + count)]


CALIBRATION, TEST = items(0, 40), items(40, 20)


def tied() -> LoadedModel:
    """An SLM that likes to repeat a token, which a random adapter takes away from it."""
    return LoadedModel(tiny_model("qwen2", tie=True), tiny_tokenizer(), "tied")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A pair whose coupled scorer has a large random adapter, and thresholds of its own."""
    folder = write_scorer(tmp_path / "scorer", tied(), "coupled", "bins")
    made = Session(PairConfig(scorer=str(folder)), slm=tied())
    made.calibration = calibrate(made, CALIBRATION, decode=DECODE, with_llm=False)
    save_calibration(calibrate_coupled(made, CALIBRATION, decode=DECODE), tmp_path / "scorer" / "calibration.json")
    return made


def select(trigger: str) -> SelectConfig:
    return SelectConfig(trigger=trigger, trigger_budget=BUDGET, scorer_mode="coupled", score="bins")


def fired_share(session: Session, questions: list[str], chosen: SelectConfig) -> float:
    answers = session.generate(questions, "s2t-local", DECODE, chosen)
    return float(np.mean([step.fired for answer in answers for step in answer.steps]))


@pytest.mark.parametrize("trigger", ["entropy", "margin"])
def test_a_coupled_scorer_fires_at_about_the_budget(session: Session, trigger: str) -> None:
    questions = [item.question for item in TEST]
    assert fired_share(session, questions, select(trigger)) == pytest.approx(BUDGET, abs=0.06)
    folder = Path(str(session.config.scorer))
    save_calibration(session.calibration, folder / "calibration.json")
    off = abs(fired_share(session, questions, select(trigger)) - BUDGET)
    assert off > 0.2, "the base SLM's thresholds would have done: the adapter is too weak for this test"


def test_its_thresholds_are_quantiles_of_the_adapted_slm(session: Session) -> None:
    other = tied()
    attached(other, session.scorer(select("entropy")).path).set_active(True)
    model = other.model
    entropy = []
    for item in CALIBRATION:
        tokens = prompt = session.prompt(item.question, 1, with_llm=False)
        while len(tokens) < len(prompt) + DECODE.max_new_tokens and not (len(tokens) > len(prompt) and tokens[-1] == 2):
            with torch.no_grad():
                logprobs = model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
            entropy.append(float(-(logprobs.exp() * logprobs).sum()))
            tokens = [*tokens, int(logprobs.argmax())]
    threshold = session.thresholds(session.coupled("s2t-local", select("entropy"))).threshold("entropy", BUDGET)
    assert threshold == pytest.approx(np.quantile(entropy, 1 - BUDGET), abs=1e-3)
    assert threshold != pytest.approx(session.calibration.threshold("entropy", BUDGET), abs=1e-2)


@pytest.mark.parametrize("mode", ["proposer", "activated"])
def test_where_the_slm_proposes_the_pairs_thresholds_hold(tmp_path: Path, mode: str) -> None:
    folder = write_scorer(tmp_path / "scorer", tied(), mode, "bins")
    session = Session(PairConfig(scorer=str(folder)), slm=tied())
    session.calibration = calibrate(session, CALIBRATION, decode=DECODE, with_llm=False)
    assert session.thresholds(session.coupled("s2t-local", select("entropy"))) is session.calibration
    with pytest.raises(S2TError, match=f"mode {mode}, .* without --scorer"):
        calibrate_coupled(session, CALIBRATION, decode=DECODE)


def test_without_thresholds_of_its_own_a_coupled_scorer_is_refused(session: Session) -> None:
    path = Path(str(session.config.scorer)) / "calibration.json"
    stranger = json.loads(path.read_text()) | {"slm_fingerprint": "another"}
    path.write_text(json.dumps(stranger))
    with pytest.raises(S2TError, match=r"another SLM .* `s2t calibrate --scorer"):
        session.generate(["w5"], "s2t-local", DECODE, select("entropy"))
    path.unlink()
    with pytest.raises(S2TError, match=r"no thresholds .* `s2t calibrate --scorer"):
        session.generate(["w5"], "s2t-local", DECODE, select("margin"))
    assert session.generate(["w5"], "s2t-local", DECODE, select("random"))[0].tokens
    with pytest.raises(S2TError, match="hidden states of the base SLM"):
        session.generate(["w5"], "s2t-local", DECODE, select("learned"))


def test_its_calibration_questions_are_no_test_questions(session: Session) -> None:
    session.calibration = calibrate(session, items(100, 2), decode=DECODE, with_llm=False)
    settings = EvalSettings(DECODE, select("entropy"))
    with pytest.raises(S2TError, match="the calibration and the test data share 1 question"):
        evaluate(session, [*TEST, CALIBRATION[3]], ["s2t-local"], settings)
    rows = evaluate(session, [*TEST, *items(100, 2)], ["s2t-local"], settings).rows
    assert rows[-1].trigger_rate == pytest.approx(BUDGET, abs=0.06)


@pytest.mark.parametrize("score", ["anchored", "bins"])
def test_the_shipped_coupled_scorers_spend_their_budget(score: str) -> None:
    questions = [problem.question for problem in load_split("calibration", limit_per_domain=60)]
    chosen = SelectConfig(scorer_mode="coupled", score=score, trigger_budget=0.03)  # type: ignore[arg-type]
    answers = Session.load().generate(questions, "s2t-local", select=chosen)
    assert np.mean([s.fired for a in answers for s in a.steps]) == pytest.approx(0.03, abs=0.01)


def test_calibrating_a_scorer_on_the_command_line(
    session: Session, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slm, scorer, data = tmp_path / "slm", tmp_path / "scorer", tmp_path / "calibration.jsonl"
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    model.save_pretrained(slm)
    tokenizer.save_pretrained(slm)
    data.write_text("".join(json.dumps({"id": i.id, "question": i.question, "answer": "w5"}) + "\n" for i in TEST))
    words = ["calibrate", "--slm", str(slm), "--data", str(data), "--max-new-tokens", "24", "--json", "--scorer"]
    assert main([*words, str(scorer)]) == 2
    assert "trained for another SLM" in capfd.readouterr().err
    own = write_scorer(tmp_path / "own", load_model(str(slm), device="cpu"), "coupled", "bins")
    assert main([*words, str(own), "--out", str(tmp_path / "elsewhere.json")]) == 2
    assert "--out and --scorer exclude each other" in capfd.readouterr().err
    assert main([*words, str(own)]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["calibration"] == str(own / "calibration.json") and set(said["thresholds"]) == {
        "entropy",
        "entropy-paper",
        "margin",
    }
    question = ["generate", "w5 w9", "--slm", str(slm), "--scorer", str(own), "--max-new-tokens", "24"]
    assert main([*question, "--trigger-budget", "0.5"]) == 0


def test_training_a_coupled_scorer_of_the_bundled_pair_makes_its_thresholds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from select_to_think.cli import train

    few = train.pair_items(PairConfig(), "calibration", 2)
    monkeypatch.setattr(train, "pair_items", lambda *_: few)
    words = ["train", "scorer", "--collection", str(COLLECTION), "--out", str(tmp_path / "scorer"), "--mode", "coupled"]
    assert main([*words, "--epochs", "0.1", "--lora-rank", "2", "--bins", "4", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    found = json.loads(Path(said["calibration"]).read_text())
    assert Path(said["calibration"]) == tmp_path / "scorer" / "calibration.json"
    assert found["item_ids"] == [item.id for item in few] and set(found["quantiles"]) == {
        "entropy",
        "entropy-paper",
        "margin",
    }
