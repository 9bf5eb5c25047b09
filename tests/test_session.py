"""The facade: what it loads, what it refuses, and that its methods are the policies of the laws."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from select_to_think.config import DecodeConfig, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.models.loading import LoadedModel, fingerprint, load_model
from select_to_think.models.prompting import prompt_ids
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.pairs.problems import load_split
from select_to_think.session import Session
from select_to_think.structures import S2TError
from select_to_think.training.settings import ScorerConfig
from select_to_think.triggers.calibration import Calibration
from select_to_think.triggers.table import TRIGGERS
from tiny import tiny_loaded, tiny_model, tiny_tokenizer
from training_fixtures import write_scorer

DECODE = DecodeConfig(max_new_tokens=16)
QUESTIONS = ["w5 w6 w7", "w9", "w8 w30 w31 w32 w12"]


def calibration(session: Session, llm: bool = True) -> Calibration:
    values = {name: [np.arange(100) / 100] for name in ("kl", "entropy", "margin")}
    other = session.llm.fingerprint if llm else None
    return replace(Calibration.fit(values, [], session.slm.fingerprint, other), quantiles={
        "kl": [0.05] * 1001, "entropy": [4.05] * 1001, "margin": [0.98] * 1001,
    })  # fmt: skip


@pytest.fixture
def session() -> Session:
    made = Session(slm=tiny_loaded(0), llm=tiny_loaded(1, 3))
    made.calibration = calibration(made)
    return made


@pytest.mark.parametrize(
    ("mode", "score"), [*product(("coupled", "proposer", "activated"), ("bins", "anchored")), ("proposer", "adapted")]
)
def test_s2t_local_runs_from_a_folder_without_ever_loading_an_llm(
    tmp_path: Path, mode: str, score: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_scorer(tmp_path / "scorer", tiny_loaded(0), mode, score)
    config = PairConfig(slm="tiny", llm="must-not-be-loaded", scorer=str(folder))
    loads: list[str] = []

    def fake_load(path: str, **_: object) -> LoadedModel:
        loads.append(path)
        return tiny_loaded(0)

    monkeypatch.setattr("select_to_think.artefacts.load_model", fake_load)
    session = Session(config)
    select = SelectConfig(trigger="random", trigger_budget=0.5, scorer_mode=mode, score=score)  # type: ignore[arg-type]
    weights = {name: weight.clone() for name, weight in session.slm.model.state_dict().items()}
    answers = session.generate(QUESTIONS, "s2t-local", DECODE, select)
    assert loads == ["tiny"]
    assert all(a.counts.llm_forwards == a.counts.llm_tokens_processed == 0 for a in answers)
    fired = [step for a in answers for step in a.steps if step.fired]
    assert fired and all(step.chooser == "scorer" and step.llm_top_token is None for step in fired)
    assert any(step.flip for step in fired)
    after = session.slm.model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in weights.items()), "the base weights changed"
    greedy = session.generate(QUESTIONS, "greedy", DECODE)
    plain = Session(slm=tiny_loaded(0)).generate(QUESTIONS, "greedy", DECODE)
    assert [g.tokens for g in greedy] == [g.tokens for g in plain], "greedy must not see the adapter"


def test_block_verified_and_step_by_step_agree_through_the_session(session: Session) -> None:
    fast = session.generate(QUESTIONS, "s2t", DECODE)
    slow = session.generate(QUESTIONS, "s2t", DECODE, SelectConfig(block_verified=False))
    assert [a.tokens for a in fast] == [a.tokens for a in slow]
    assert sum(a.flip_count for a in fast) > 0
    assert sum(a.counts.llm_forwards for a in fast) < sum(a.counts.llm_forwards for a in slow)


def test_results_keep_the_order_of_the_questions_and_do_not_depend_on_it(session: Session) -> None:
    for method in ("greedy", "sample", "maj@3", "takeover", "llm"):
        forward = session.generate(QUESTIONS, method, replace(DECODE, max_batch=2))
        backward = session.generate(QUESTIONS[::-1], method, replace(DECODE, max_batch=1))
        assert [a.tokens for a in forward] == [a.tokens for a in backward[::-1]]
        assert all(a.text == session.text(a.tokens) for a in forward)
    seeds = [session.generate(QUESTIONS, "sample", replace(DECODE, seed=seed))[0].tokens for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    often = SelectConfig(trigger="random", trigger_budget=0.5)
    fired = [[step.fired for step in a.steps[:8]] for a in session.generate(QUESTIONS, "s2t", DECODE, often)]
    assert fired[0] != fired[1] != fired[2] != fired[0], "every prompt has random choices of its own"


@pytest.mark.parametrize("narrow", [{"min_p": 1.0}, {"top_k": 1}, {"top_p": 0.0}])
def test_a_draw_among_one_token_is_greedy(session: Session, narrow: dict[str, float]) -> None:
    drawn = session.generate(QUESTIONS, "sample", replace(DECODE, temperature=2.0, **narrow))  # type: ignore[arg-type]
    assert [a.tokens for a in drawn] == [a.tokens for a in session.generate(QUESTIONS, "greedy", DECODE)]


@pytest.mark.parametrize(("early_stop", "votes"), [(True, 2), (False, 3)])
def test_a_decided_vote_is_counted_to_the_end_if_so_wanted(session: Session, early_stop: bool, votes: int) -> None:
    decode = replace(DECODE, early_stop=early_stop)
    ends = {"stop": ("w",), "extract": lambda index, text: "same"}
    ((_, found),) = session.stream(QUESTIONS[:1], "maj@3", decode, **ends)  # type: ignore[arg-type]
    assert found.votes == ("same",) * votes


def test_candidates_have_room_before_an_answer_begins(tmp_path: Path) -> None:
    """Prompt and answer fill an extent, and the memory has as many as there are questions: not all begin at once."""
    folder = write_scorer(tmp_path / "scorer", tiny_loaded(0), "proposer", "bins")
    often = SelectConfig(trigger="random", trigger_budget=0.5)
    prompts, decode = [[5, 6, 7], [9, 8, 5], [8, 30, 31], [40, 41, 3]], DecodeConfig(max_new_tokens=61)
    found = []
    for memory in (0.01, 0.00012):  # 504 slots
        session = Session(
            PairConfig(scorer=str(folder)), slm=tiny_loaded(0), runtime=RuntimeConfig(kv_memory_gib=memory)
        )
        found.append([g.tokens for _, g in sorted(session.stream(prompts, "s2t-local", decode, often))])
    assert found[0] == found[1] and max(map(len, found[0])) > 60


@pytest.mark.parametrize(
    ("method", "select", "message"),
    [
        ("s2t-locl", SelectConfig(), "did you mean 's2t-local'"),
        ("maj@0", SelectConfig(), "unknown method"),
        ("maj@" + "9" * 5000, SelectConfig(), "unknown method"),
        ("s2t", SelectConfig(trigger="entropi"), "did you mean 'entropy'"),
        ("s2t-local", SelectConfig(trigger="kl"), "s2t-local runs without an LLM"),
        ("s2t", SelectConfig(candidates=65), "lower --candidates"),
        ("s2t-local", SelectConfig(trigger="random"), "s2t train scorer"),
        ("s2t", SelectConfig(trigger="learned"), "s2t train trigger"),
    ],
)
def test_mistakes_are_named_with_their_remedy(
    session: Session, method: str, select: SelectConfig, message: str
) -> None:
    with pytest.raises(S2TError, match=message):
        session.generate(QUESTIONS, method, DECODE, select)


@pytest.mark.parametrize(("mode", "score"), [("activated", "adapted"), ("coupled", "adapted"), ("activated", "bins")])
def test_a_scorer_that_the_pair_lacks_is_told_with_those_it_has(mode: str, score: str) -> None:
    select = SelectConfig(scorer_mode=mode, score=score)  # type: ignore[arg-type]
    with pytest.raises(S2TError, match=f"no scorer {mode}-{score} .*: choose from .*proposer-adapted"):
        Session().generate(["Today Ann has 5 pens."], "s2t-local", DECODE, select)


def test_prompts_that_do_not_fit_are_refused(session: Session) -> None:
    with pytest.raises(S2TError, match=r"exceed the context of 512 tokens.*max-new-tokens"):
        session.generate([" ".join(["w5"] * 500)], "greedy", DECODE)
    with pytest.raises(S2TError, match="empty"):
        session.generate([""], "greedy", DECODE)
    assert len(session.prompt([5] * 500, 12, with_llm=True)) == 500, "it just fits"
    session.llm.model.config.max_position_embeddings = 400  # type: ignore[union-attr]
    with pytest.raises(S2TError, match="exceed the context of 400 tokens"):
        session.generate([[5] * 390], "s2t", DECODE)


def test_mismatched_models_are_refused(tmp_path: Path) -> None:
    apart = Session(slm=tiny_loaded(0), llm=tiny_loaded(1, words=60))
    with pytest.raises(S2TError, match=r"different vocabularies \(token 'w60'"):
        dict(apart.label(QUESTIONS[:1], [[5, 6]]))
    with pytest.raises(S2TError, match="read as bytes"):
        apart.generate(QUESTIONS, "llm", DECODE)
    folder = write_scorer(tmp_path / "scorer", tiny_loaded(0), "activated", "bins")
    other = Session(PairConfig(scorer=str(folder)), slm=tiny_loaded(7))
    with pytest.raises(S2TError, match="trained for another SLM"):
        other.generate(QUESTIONS, "s2t-local", DECODE, SelectConfig(trigger="random"))
    session = Session(slm=tiny_loaded(0), llm=tiny_loaded(1))
    session.calibration = calibration(session)
    swapped = Session(slm=tiny_loaded(0), llm=tiny_loaded(2))
    swapped.calibration = session.calibration
    with pytest.raises(S2TError, match="another LLM"):
        swapped.generate(QUESTIONS, "s2t", DECODE)
    stranger = Session(slm=tiny_loaded(5), llm=tiny_loaded(1))
    stranger.calibration = session.calibration
    with pytest.raises(S2TError, match="another SLM"):
        stranger.generate(QUESTIONS, "s2t", DECODE)


def test_padded_rows_are_reserved_and_need_not_be_the_same() -> None:
    slm, llm = tiny_loaded(0, words=60), LoadedModel(tiny_model("qwen2", vocab=72, seed=1), tiny_tokenizer(60), "wide")
    assert reserved_ids(slm) == frozenset(range(60, 64)) and reserved_ids(llm) == frozenset(range(60, 72))
    session = Session(slm=slm, llm=llm)
    session.calibration = calibration(session)
    for method in ("greedy", "sample", "s2t", "takeover", "llm"):
        assert all(max(a.tokens) < 60 for a in session.generate(QUESTIONS, method, DECODE))
    assert dict(session.label(QUESTIONS[:1], [[5, 6]]))[0].slm_ids.max() < 60
    with pytest.raises(S2TError, match="61 candidates asked of a vocabulary of 60 tokens"):
        session.generate(QUESTIONS, "s2t", DECODE, SelectConfig(candidates=61))


def test_what_is_used_for_a_while_is_put_back(session: Session) -> None:
    before, other = (session.config, session.calibration), calibration(session)
    with pytest.raises(KeyError), session.using(other, scorer="elsewhere"):
        assert session.config.scorer == "elsewhere" and session.calibration is other
        raise KeyError
    assert (session.config, session.calibration) == before and session.calibration is before[1]


def test_unknown_pair_and_missing_models() -> None:
    with pytest.raises(S2TError, match="did you mean 'demo'"):
        Session.load(PairConfig(pair="dema"))
    with pytest.raises(S2TError, match="--llm"):
        Session(PairConfig(), slm=tiny_loaded(0)).generate(QUESTIONS, "llm", DECODE)
    with pytest.raises(S2TError, match=r"`s2t train scorer` .* --scorer$"):
        Session(slm=tiny_loaded(0)).scorer(SelectConfig())
    with pytest.raises(S2TError, match=r"`s2t calibrate` .* --calibration$"):
        _ = Session(slm=tiny_loaded(0)).calibration


def test_loading(tmp_path: Path) -> None:
    loaded = tiny_loaded(0)
    loaded.model.save_pretrained(tmp_path / "good")
    loaded.tokenizer.save_pretrained(tmp_path / "good")
    again = load_model(str(tmp_path / "good"), device="cpu", dtype="bfloat16")
    assert again.fingerprint == loaded.fingerprint and again.model.dtype == torch.bfloat16
    with torch.no_grad():
        next(iter(again.model.parameters())).mul_(-1)
    assert fingerprint(again.model) != loaded.fingerprint
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing" / "here"):
        with pytest.raises(S2TError):
            load_model(str(path), device="cpu")
    pickled = tmp_path / "pickled"
    loaded.tokenizer.save_pretrained(pickled)
    loaded.model.config.save_pretrained(pickled)
    torch.save(loaded.model.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(S2TError, match="safetensors"):
        load_model(str(pickled), device="cpu")
    with pytest.raises(S2TError, match="device"):
        load_model(str(tmp_path / "good"), device="cuda:99")


def test_prompts_have_one_bos() -> None:
    loaded = tiny_loaded(0)
    loaded.tokenizer.chat_template = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}"
    assert prompt_ids(loaded, "w5 w6") == [1, 5, 6]
    assert prompt_ids(loaded, "w5 w6", begun=" w9") == [1, 5, 6, 9]
    loaded.tokenizer.chat_template = None
    assert prompt_ids(loaded, "w5 w6", begun=" w9") == [5, 6, 9]


def test_configurations_check_their_ranges() -> None:
    with pytest.raises(S2TError, match=r"trigger_budget must be between 0\.0 and 1\.0"):
        SelectConfig(trigger_budget=1.5)
    with pytest.raises(S2TError, match="max_new_tokens must be at least 1"):
        DecodeConfig(max_new_tokens=0)
    with pytest.raises(S2TError, match="score_temperature"):
        ScorerConfig(score_temperature=float("nan"))


def test_the_bundled_pair_says_what_its_numbers_mean_and_s2t_local_solves_what_greedy_does_not() -> None:
    session = Session.load()
    assert any("deliberate mistakes" in note and "66 %" in note for note in session.notes)
    question = (
        "Today Ida has 27 keys. Ida lends 5 keys. Kira has 48 keys. Ida lends 7 keys. How many keys does Ida have?"
    )
    greedy, local = (session.generate([question], method)[0] for method in ("greedy", "s2t-local"))
    assert "The answer is 39." in greedy.text and "The answer is 15." in local.text
    assert local.flip_count == 2 and local.counts.llm_forwards == 0
    assert "llm" not in vars(session), "s2t-local must not load the LLM"


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_budget_of_nothing_never_fires_and_one_of_all_always(name: str) -> None:
    session = Session.load()
    never, always = (session.trigger(name, budget) for budget in (0.0, 1.0))
    assert not never.fires(0.999 if name == "random" else 1e9, 50)
    assert always.fires(0.001 if name == "random" else -1e9, 50)


def test_block_verified_equals_step_by_step_on_the_bundled_pair() -> None:
    session = Session.load()
    questions = [problem.question for problem in load_split("validation", limit_per_domain=8)]
    for budget in (0.01, 0.1):
        fast, slow = (
            session.generate(questions, "s2t", select=SelectConfig(trigger_budget=budget, block_verified=block))
            for block in (True, False)
        )
        assert [a.tokens for a in fast] == [a.tokens for a in slow]
        assert sum(a.counts.llm_forwards for a in fast) < 0.2 * sum(len(a.tokens) for a in fast)


def test_a_model_that_is_loaded_finds_the_room_of_what_nobody_reads() -> None:
    session = Session.load()
    session.generate(["Ann has 5 pens."], "greedy", DECODE)
    backend = session.backend("slm")
    assert "memory" in vars(backend)
    _ = session.llm
    assert "memory" not in vars(backend)


def test_one_text_is_not_a_list_of_questions(session: Session) -> None:
    with pytest.raises(S2TError, match="a list of questions, not one text"):
        session.generate("w5 w6")  # its characters would be questions
