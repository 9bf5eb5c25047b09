"""The bundled pair of two vocabularies: the demo's SLM and an LLM that writes digits one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe.recipes import LLM_X
from recipe.tokenizer import train_tokenizer
from select_to_think.cli import app
from select_to_think.config import DecodeConfig, MentorConfig, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.models.loading import load_model
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.pairs import bundled_folder, bundled_model
from select_to_think.pairs.problems import load_split
from select_to_think.session import Session
from select_to_think.structures import S2TError

DECODE = DecodeConfig(max_new_tokens=96)


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.load(PairConfig(pair="demo-x"))


@pytest.fixture(scope="module")
def questions() -> list[str]:
    return [problem.question for problem in load_split("validation", limit_per_domain=2)]


def test_it_is_the_demo_with_another_llm(session: Session) -> None:
    assert session.slm.fingerprint == load_model(str(bundled_model("demo", "slm"))).fingerprint
    assert bundled_folder("demo-x") == bundled_folder("demo")
    assert not session.shares_vocabulary and session.calibration.threshold("entropy", 0.03) > 0
    assert session.scorer(SelectConfig()).mode == "activated"
    assert any("demo-x" in note or "digits" in note for note in session.notes)


def test_its_checkpoint_is_that_of_the_recipe() -> None:
    folder = bundled_model("demo-x", "llm")
    trained = train_tokenizer(LLM_X.pieces)
    llm = load_model(str(folder))
    assert llm.tokenizer.get_vocab() == trained.get_vocab() and llm.vocab_size == len(trained)
    text = "Ann has 19 * 3 = 157 pens. Émile 😀"
    assert llm.tokenizer(text).input_ids == trained(text).input_ids
    assert llm.tokenizer.tokenize(" 157") == ["Ġ", "1", "5", "7"]
    log = json.loads((folder / "training_log.json").read_text())
    assert log["llm-x"][-1]["step"] == LLM_X.steps
    assert "digits stand alone" in (folder / "README.md").read_text()


@pytest.mark.parametrize("method", ["llm", "takeover", "s2t", "mentor-free"])
def test_every_method_answers(session: Session, questions: list[str], method: str) -> None:
    answers = session.generate(questions, method, DECODE, SelectConfig(trigger_budget=0.1), MentorConfig())
    assert all("The answer is" in answer.text for answer in answers)
    assert not {token for answer in answers for token in answer.tokens} & reserved_ids(session.slm)


def test_llm_alone_writes_what_it_writes_by_itself(session: Session, questions: list[str]) -> None:
    alone = Session(slm=session.llm).generate(questions, "greedy", DecodeConfig(max_new_tokens=200))
    apart = session.generate(questions, "llm", DecodeConfig(max_new_tokens=200))
    assert [answer.text for answer in apart] == [answer.text for answer in alone]


def test_the_demo_runs_without_what_needs_one_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["demo", "--pair", "demo-x", "--limit", "1", "--out", str(tmp_path / "run"), "--json"]) == 0
    payload = json.loads(capsys.readouterr().out)
    assert payload["measure"] == [] and {"s2t", "mentor-mlp", "distill"} <= {r["method"] for r in payload["results"]}


def test_questions_to_the_llm_have_room_before_an_answer_begins(session: Session) -> None:
    questions = [problem.question for problem in load_split("validation", limit_per_domain=8)]
    small = Session(session.config, slm=session.slm, llm=session.llm, runtime=RuntimeConfig(kv_memory_gib=0.003))
    small.calibration = session.calibration
    decode, select = DecodeConfig(max_new_tokens=40), SelectConfig(trigger_budget=0.1)
    told = [g.text for g in small.generate(questions, "s2t", decode, select)]
    assert told == [g.text for g in session.generate(questions, "s2t", decode, select)]


def test_ids_that_no_model_has_are_refused(session: Session) -> None:
    for ids in ([5, 1_000_000], [-1]):
        with pytest.raises(S2TError, match="outside the SLM's vocabulary"):
            session.prompt(ids, 4, with_llm=True)
