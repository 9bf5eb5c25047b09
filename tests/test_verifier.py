"""The verifier: its prompt is what the bundled SLM was taught, its network learns, folds and reads back."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

import reference
from recipe.batches import split_pieces
from recipe.problems import stream_puzzles
from recipe.verifier_items import OPTION_TOKENS, draw_options
from select_to_think.config import DecodeConfig, MentorConfig, RuntimeConfig, SelectConfig
from select_to_think.evaluation import plain
from select_to_think.evaluation.grading import grade
from select_to_think.evaluation.items import Item, load_pair_split
from select_to_think.evaluation.plain import PlainModel
from select_to_think.evaluation.trained_on import assert_not_trained_on
from select_to_think.files import Journal
from select_to_think.models.layers import apply_layers, fold
from select_to_think.models.loading import LoadedModel
from select_to_think.models.prompting import Conversation, prompt_ids
from select_to_think.models.verifier import load_verifier
from select_to_think.models.verifier_prompt import VerifierPrompt
from select_to_think.models.words import token_texts, word_boundaries
from select_to_think.session import Session
from select_to_think.structures import S2TError
from select_to_think.training import verifier as training
from select_to_think.training.disputes import JudgedDispute, JudgedItem, judge_disputes, outcomes
from select_to_think.training.head import last_states
from select_to_think.training.settings import VerifierTrainConfig
from select_to_think.training.verifier import (
    calibration_curve,
    new_network,
    read_prompts,
    right_choices,
    train_verifier,
)
from select_to_think.verifiers.base import Dispute
from tiny import tiny_loaded

MENTOR = MentorConfig()
WORDING = (MENTOR.verifier_template, MENTOR.verifier_opening, MENTOR.verifier_place)


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.load()


@pytest.fixture(scope="module")
def prompt(session) -> VerifierPrompt:
    return VerifierPrompt(session.slm, *WORDING)


def test_the_default_wording_is_what_the_bundled_slm_was_taught(session, prompt) -> None:
    tokenizer = session.slm.tokenizer
    for puzzle, _ in zip(stream_puzzles("logic", "train"), range(5), strict=False):
        taught, _ = draw_options(puzzle, Random(3), lambda text: split_pieces(tokenizer, text))
        text = puzzle.solve().text
        first, second = (line.split("):", 1)[1] for line in taught.splitlines()[-2:])
        so_far = taught[len(puzzle.question) + 1 :].split("\nWhich option")[0]
        assert text.startswith(so_far)
        asked = prompt.about(puzzle.question).asked(so_far, first, second)
        assert asked == prompt_ids(session.slm, taught, begun="My choice: Option (")
        before = tokenizer(so_far, add_special_tokens=False).input_ids
        options = [tokenizer(option, add_special_tokens=False).input_ids for option in (first, second)]
        assert prompt.about(puzzle.question).ids(before, *options) == asked
    assert MENTOR.segment_tokens == OPTION_TOKENS


def test_the_letters_are_the_tokens_that_differ(session, prompt) -> None:
    assert session.slm.tokenizer.convert_ids_to_tokens(list(prompt.letters)) == ["A", "B"]
    asked = prompt.asked("so far", " one", " two")
    for letter, name in zip(prompt.letters, "AB", strict=True):
        assert [*asked, letter] == prompt.answered(name, "so far", " one", " two")
    with pytest.raises(S2TError, match="letters"):
        _ = VerifierPrompt(tiny_loaded(), *WORDING).letters


def test_texts_are_put_in_as_they_are(prompt) -> None:
    about = prompt.about("What is {text} and {a}?")
    text = about.loaded.tokenizer.decode(about.asked("{b}", " {question}", " 5"))
    assert "What is {text} and {a}?\n{b}\nWhich" in text and "(A): {question}\nOption (B): 5\n" in text
    with pytest.raises(S2TError, match=r"\{b\}"):
        MentorConfig(verifier_template="{question}{text}{a}")


def test_a_half_written_character_counts_as_behind_the_text(session, prompt) -> None:
    whole = session.slm.tokenizer(" né", add_special_tokens=False).input_ids
    cut = next(i for i in range(1, len(whole)) if prompt.text(whole[:i]).endswith("�"))
    assert prompt.behind(prompt.text(whole[:cut]), whole) == "é"


def test_word_boundaries_of_a_byte_level_vocabulary(session) -> None:
    texts, words = token_texts(session.slm), word_boundaries(session.slm)
    ids = session.slm.tokenizer("Kim has 31 pens.\nThe answer", add_special_tokens=False).input_ids
    assert "".join(texts[i] for i in ids) == "Kim has 31 pens.\nThe answer"
    marks = "".join("" if words.goes_on(a, b) else "|" + texts[b] for a, b in pairwise(ids))
    assert [piece.strip() for piece in marks.split("|") if piece.strip()] == ["has", "31", "pens", "The", "answer"]
    assert session.stop_ids <= words.starts & words.ends


def test_states_and_letters_are_those_of_single_forwards(session, prompt) -> None:
    dispute = JudgedDispute([300, 301, 302], [303, 304], [305, 306, 307], (True, False))
    judged = [(Item(str(i), question, ""), dispute) for i, question in enumerate(("Who?", "What is this?"))]
    read = read_prompts(session.slm, prompt, judged)
    assert read.right.tolist() == [[False, True]] * 2
    for i, (item, _) in enumerate(judged):
        pairs = (dispute.slm, dispute.mentor), (dispute.mentor, dispute.slm)
        for j, pair in enumerate(pairs):
            ids = prompt.about(item.question).ids(dispute.before, *pair)
            odds = reference.next_logprobs(session.slm.model, ids)[list(prompt.letters)]
            assert read.free[i, j] == pytest.approx(float(odds[1] - odds[0]), abs=1e-3)
            torch.testing.assert_close(read.hidden[i, j], last_states(session.slm, [ids], [1])[0], atol=1e-4, rtol=1e-4)


def test_folded_layers_are_the_network_at_inference() -> None:
    torch.manual_seed(0)
    made, hidden = new_network(8), torch.randn(64, 8)
    for _ in range(3):
        made(hidden + 1)
    made.eval()
    with torch.no_grad():
        logits = made(hidden)[:, 0]
    np.testing.assert_allclose(apply_layers(fold(made), hidden.numpy()), logits.numpy(), atol=1e-5)
    assert [weight.shape for weight, _ in fold(made)] == [(16, 8), (8, 16), (4, 8), (1, 4)]


def test_disputes_are_judged_by_what_the_slm_makes_of_each_segment(session, tmp_path: Path) -> None:
    items = load_pair_split("validation", limit_per_domain=2)
    decode, mentor = DecodeConfig(max_new_tokens=80), MentorConfig(consult_rate=1.0)
    with Journal(tmp_path / "disputes", JudgedItem) as journal:
        found = judge_disputes(session, items, decode, mentor, journal)
    for item, dispute in found[:3]:
        prompt = session.prompt(item.question, 80, with_llm=True)
        for segment, right in zip((dispute.slm, dispute.mentor), dispute.right, strict=True):
            begun = [*dispute.before, *segment]
            rest = [] if begun[-1] in session.stop_ids else [*prompt, *begun]
            if rest:
                begun += plain.greedy(PlainModel(session.slm.model), rest, 80 - len(begun), set(session.stop_ids))
            assert grade(session.text(begun), item.answer, item.answer_type).right == right
    with Journal(tmp_path / "disputes", JudgedItem) as journal:
        assert judge_disputes(None, items, decode, mentor, journal) == found  # type: ignore[arg-type]


def learnable(slm: LoadedModel, count: int) -> list[tuple[Item, JudgedDispute]]:
    """Disputes in which the segment with a certain token is right."""
    random = Random(0)
    found = []
    for i in range(count):
        sides = [[random.randrange(300, 340), 400 + side, 410] for side in range(2)]
        mentor_right = random.random() < 0.7
        slm_side, mentor_side = sides if mentor_right else sides[::-1]
        dispute = JudgedDispute([random.randrange(300, 340)], slm_side, mentor_side, (not mentor_right, mentor_right))
        found.append((Item(f"item-{i}", f"Which of {i}?", ""), dispute))
    return found


def test_it_learns_publishes_and_reads_back(session, tmp_path: Path, monkeypatch) -> None:
    items = load_pair_split("train", limit_per_domain=1)
    ties = [(item, replace(dispute, right=(True, True))) for item, dispute in learnable(session.slm, 5)]
    monkeypatch.setattr(training, "judge_disputes", lambda *_: learnable(session.slm, 200) + ties)
    config, out = VerifierTrainConfig(epochs=30, learning_rate=3e-3), tmp_path / "verifier"
    report = train_verifier(session, items, config, MENTOR, DecodeConfig(), out)
    assert report["roc_auc"] > 0.9 and report["right_choices"] > 0.9
    assert (report["disputes"], report["ties"], report["trained"] + report["measured"]) == (205, 5, 200)
    assert report["calibration"][0]["right"] < 0.3 and report["calibration"][-1]["right"] > 0.7
    assert [path.name for path in tmp_path.iterdir()] == ["verifier"]
    assert [bias.size for _, bias in load_verifier(out, session.slm, WORDING)][-1] == 1
    assert json.loads((out / "verifier.json").read_text())["training"] == report
    with pytest.raises(S2TError, match="train"):
        assert_not_trained_on(items, out, purpose="test")
    with pytest.raises(S2TError, match="another prompt"):
        load_verifier(out, session.slm, ("{question}", "", "turn"))
    with pytest.raises(S2TError, match="already exists"):
        train_verifier(session, items, config, MENTOR, DecodeConfig(), out)
    with pytest.raises(S2TError, match="another SLM"):
        load_verifier(out, tiny_loaded(), WORDING)
    with pytest.raises(S2TError, match="s2t train verifier"):
        load_verifier(tmp_path / "none", session.slm, WORDING)
    trained = Session(replace(session.config, verifier=str(out)), slm=session.slm, llm=session.llm)
    answer = trained.generate([items[0].question], "mentor-mlp", DecodeConfig(max_new_tokens=40))[0]
    assert answer.counts.consultations > 0
    monkeypatch.setattr(training, "judge_disputes", lambda *_: ties)
    with pytest.raises(S2TError, match="too few disputes"):
        train_verifier(session, items, config, MENTOR, DecodeConfig(), tmp_path / "other")


def test_an_unfinished_training_goes_on_with_its_own_questions(session, tmp_path: Path, monkeypatch) -> None:
    items, config, out = load_pair_split("train", limit_per_domain=1), VerifierTrainConfig(), tmp_path / "verifier"

    def judged(_session: Any, items: Any, _decode: Any, _mentor: Any, journal: Any, _progress: Any) -> Any:
        journal.append({"id": items[0].id, "disputes": []})
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "judge_disputes", judged)
    with pytest.raises(KeyboardInterrupt):
        train_verifier(session, items, config, MENTOR, DecodeConfig(), out)
    others = [replace(items[0], question="What else?"), *items[1:]]
    with pytest.raises(S2TError, match=r"items\.sha256 was"):
        train_verifier(session, others, config, MENTOR, DecodeConfig(), out, resume=True)
    with pytest.raises(S2TError, match="stands twice"):
        train_verifier(session, [*items, items[0]], config, MENTOR, DecodeConfig(), out, resume=True)
    with pytest.raises(KeyboardInterrupt):
        train_verifier(session, items, config, MENTOR, DecodeConfig(max_batch=3), out, resume=True)
    with pytest.raises(S2TError, match="even"):
        VerifierTrainConfig(batch_prompts=3)


def test_an_answer_that_was_cut_off_is_wrong(session) -> None:
    item = load_pair_split("train", limit_per_domain=1)[0]
    (answer,) = session.generate([item.question], "llm")
    tokens = [step.token for step in answer.steps]
    assert answer.finish_reason == "stop"
    dispute = Dispute([], tokens[:3], tokens[:4])
    for segment, right in ((tokens, True), (tokens[:-1], False)):
        decode = DecodeConfig(max_new_tokens=len(segment))
        found, _ = outcomes(session, [item], [[replace(dispute, slm=segment)]], decode)
        assert found == right


def test_an_answer_that_has_begun_is_judged_as_a_whole(session) -> None:
    mentor, compared = MentorConfig(consult_rate=1.0), 0
    for item in load_pair_split("validation", limit_per_domain=8):
        ((_, whole),) = session.stream([item.question], "mentor-free", mentor=mentor)
        begun = next((i for i, step in enumerate(whole.steps) if step.fired), 0) - 1
        if begun > 0:
            asked = Conversation((("user", item.question),), tuple(whole.tokens[:begun]))
            ((_, rest),) = session.stream([asked], "mentor-free", mentor=mentor)
            compared += rest.tokens == whole.tokens[begun:]
            assert rest.tokens == whole.tokens[begun:]
    assert compared > 3


def test_what_the_verifier_reads_has_room_before_an_answer_begins(session) -> None:
    """However many answers are written at once; one for which there is none is refused at once."""
    questions = [item.question for item in load_pair_split("validation", limit_per_domain=4)]
    decode, mentor = DecodeConfig(max_new_tokens=40), MentorConfig(consult_rate=1.0)
    small = Session(session.config, slm=session.slm, llm=session.llm, runtime=RuntimeConfig(kv_memory_gib=0.004))
    told = small.generate(questions, "mentor-free", decode, mentor=mentor)
    assert [g.text for g in told] == [g.text for g in session.generate(questions, "mentor-free", decode, mentor=mentor)]
    tiny = Session(session.config, slm=session.slm, llm=session.llm, runtime=RuntimeConfig(kv_memory_gib=0.002))
    with pytest.raises(S2TError, match="do not fit the key-value memory"):
        tiny.generate(questions, "mentor-free", decode, mentor=mentor)


@pytest.mark.parametrize("method", ["mentor-free", "mentor-coin"])
def test_a_session_answers_with_a_mentor(session, method) -> None:
    questions = [item.question for item in load_pair_split("validation", limit_per_domain=1)]
    mentor = MentorConfig(consult_rate=1.0)
    decode = DecodeConfig(max_new_tokens=60)
    together = session.generate(questions, method, decode, SelectConfig(), mentor)
    assert sum(r.counts.consultations for r in together) > 0
    alone = [session.generate([question], method, decode, SelectConfig(), mentor)[0] for question in questions]
    assert [r.text for r in alone] == [r.text for r in together]
    none = session.generate(questions, method, decode, SelectConfig(), MentorConfig(consult_rate=0.0))
    assert [r.text for r in none] == [r.text for r in session.generate(questions, "greedy", decode)]


def test_measures_of_a_verifier() -> None:
    right = np.array([[True, False], [False, True], [True, False]])
    assert right_choices(np.array([[2.0, 1.0], [0.0, 1.0], [-1.0, 0.0]], np.float32), right) == pytest.approx(2 / 3)
    curve = calibration_curve(np.array([0.05, 0.91, 1.0]), np.array([False, True, False]))
    assert [entry["prompts"] for entry in curve] == [1, 2] and curve[1]["right"] == 0.5
