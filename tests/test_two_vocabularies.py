"""An LLM with other tokens than the SLM: what changes nothing, and what a candidate's score is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

import reference
from drive import backends_of, results_of
from recipe.tokenizer import Pieces, train_tokenizer
from select_to_think.config import DecodeConfig, EvalSettings, MentorConfig, RuntimeConfig, SelectConfig
from select_to_think.evaluation.calibrate import calibrate
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.settings import method_settings
from select_to_think.models.loading import LoadedModel
from select_to_think.models.spelling import Spelling
from select_to_think.models.translation import Translation
from select_to_think.models.verifier_prompt import VerifierPrompt
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.models.words import word_boundaries
from select_to_think.policies.base import Limits, Task
from select_to_think.policies.candidates import CandidateQuery
from select_to_think.policies.greedy import Greedy
from select_to_think.policies.interpreter import Listener, interpret
from select_to_think.policies.mentor import Mentor
from select_to_think.policies.select import Select
from select_to_think.selectors.llm import LLMSelector
from select_to_think.session import Session
from select_to_think.structures import PromptTooLong, Role, S2TError
from select_to_think.triggers.calibration import Calibration
from select_to_think.triggers.random import coin
from select_to_think.verifiers.coin import CoinVerifier
from select_to_think.verifiers.free import FreeVerifier
from tiny import tiny_model

TEXTS = ("Today Ann has 12 pens.", "Which town is 199 + 7?", "Émile: 😀 中文!")
STOP = 2


@cache
def loaded(pieces: Pieces = "words", seed: int = 0, layers: int = 2) -> LoadedModel:
    tokenizer = train_tokenizer(pieces)
    return LoadedModel(tiny_model("llama", vocab=len(tokenizer) + 5, seed=seed, layers=layers), tokenizer, pieces)


@cache
def translation(slm: Pieces = "words", llm: Pieces = "words") -> Translation:
    return Translation(Spelling(loaded(slm)), Spelling(loaded(llm)))


def ids(model: LoadedModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False).input_ids)


def run(policy, slm, llm, between=None, rows=4):
    backends = {
        **backends_of({"slm": slm.model}, forbidden=[*reserved_ids(slm), 1]),
        **backends_of({"llm": llm.model}, forbidden=[*reserved_ids(llm), 1]),
    }
    roles = {"slm": Role("slm"), "llm": Role("llm"), "verifier": Role("slm")}

    def start(text):
        asked = policy.about(Task(text, lambda tokens: None))
        asked = replace(asked, guesses=between is None) if isinstance(asked, Mentor) else asked
        own = asked.run(ids(slm, text), text)
        if between is None:
            return own
        return interpret(own, Listener(between, len(ids(slm, text)), tuple(ids(llm, text)), 512))

    return results_of(backends, map(start, TEXTS), rows=rows, roles=roles)


def policies():
    limits = Limits(frozenset({STOP}), 20)
    mentor = MentorConfig()
    asked = VerifierPrompt(loaded(), mentor.verifier_template, mentor.verifier_opening)
    return {
        "llm": Greedy(limits, model="llm"),
        "takeover": Select(limits, coin(0.5), LLMSelector(takeover=True), 6),
        "s2t": Select(limits, coin(0.5), LLMSelector(), 6),
        "mentor-coin": Mentor(limits, word_boundaries(loaded()), CoinVerifier(), 0.7, 4),
        "mentor-free": Mentor(limits, word_boundaries(loaded()), FreeVerifier(asked, "debiased"), 0.7, 4),
    }


@pytest.mark.parametrize("method", policies())
def test_with_twice_the_same_vocabulary_nothing_changes(method) -> None:
    """Whatever bytes these random models write: broken characters, words in needless pieces."""
    policy, slm, llm = policies()[method], loaded(), loaded(seed=1, layers=3)
    shared, apart = run(policy, slm, llm), run(policy, slm, llm, translation())
    for one, other in zip(shared, apart, strict=True):
        assert one.tokens == other.tokens and one.finish_reason == other.finish_reason
        for a, b in zip(one.steps, other.steps, strict=True):
            assert (a.fired, a.candidates, a.llm_top_token, a.chooser) == (
                b.fired,
                b.candidates,
                b.llm_top_token,
                b.chooser,
            )
            assert a.segments == b.segments and a.scores == pytest.approx(b.scores, abs=1e-4)
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
    if method.startswith("mentor"):
        assert {step.chooser for r in shared for step in r.steps if step.segments} == {"slm", "llm"}
    if method == "llm":
        assert [r.counts.llm_forwards for r in shared] == [r.counts.llm_forwards for r in apart]


@pytest.mark.parametrize("method", policies())
def test_rows_do_not_depend_on_their_neighbours(method) -> None:
    policy, slm, llm = policies()[method], loaded(), loaded("digits", seed=1)
    between = translation("words", "digits")
    one, many = run(policy, slm, llm, between, rows=1), run(policy, slm, llm, between, rows=3)
    assert [(r.tokens, r.counts) for r in one] == [(r.tokens, r.counts) for r in many]


def test_the_llm_alone_writes_its_own_greedy_text() -> None:
    slm, llm = loaded(), loaded("digits", seed=1)
    results = run(policies()["llm"], slm, llm, translation("words", "digits"))
    spelling = Spelling(llm)
    for text, result in zip(TEXTS, results, strict=True):
        own = reference_greedy(llm, ids(llm, text), 60)
        written = Spelling(slm).read(result.tokens)
        assert spelling.read(own)[: len(written)] == written and written
        assert result.counts.llm_tokens_generated == len(result.tokens)


def reference_greedy(model: LoadedModel, prompt: list[int], new: int) -> list[int]:
    out: list[int] = []
    while len(out) < new and STOP not in out:
        out.append(int(reference.next_logprobs(model.model, [*prompt, *out], [*reserved_ids(model), 1]).argmax()))
    return out


def test_takeover_writes_the_number_that_the_llm_means() -> None:
    """The LLM's own greedy text, one SLM token at a time, whatever it is cut into by the SLM's tokenizer."""
    limits = Limits(frozenset({STOP}), 20)
    always = Select(limits, coin(-1.0), LLMSelector(takeover=True), 6)
    slm, llm, between = loaded(), loaded("digits", seed=1), translation("words", "digits")
    alone = run(Greedy(limits, model="llm"), slm, llm, between)
    assert [r.tokens for r in run(always, slm, llm, between)] == [r.tokens for r in alone]
    assert between.first_token(b" 14", ended=False) is None, "145 may follow"
    assert between.first_token(b" 145", ended=False) == between.slm.ids[b" 145"]
    assert between.first_token(b" 14.", ended=False) == between.slm.ids[b" 14"]
    assert between.first_token(b" 14", ended=True) == between.slm.ids[b" 14"]
    assert between.first_token("\N{GRINNING FACE}".encode()[:2], ended=False) is None, "the character goes on"


def test_a_selected_token_is_the_best_scored_candidate_and_the_context_is_the_running_text() -> None:
    slm, llm, between = loaded(), loaded("digits", seed=1), translation("words", "digits")
    for text, result in zip(TEXTS, run(policies()["s2t"], slm, llm, between), strict=True):
        assert result.fired_count
        for place, step in enumerate(result.steps):
            if step.fired:
                assert step.token == step.candidates[step.scores.index(max(step.scores))]
                path = (*ids(llm, text), *between.to_llm(result.tokens[:place]))
                assert step.scores == pytest.approx(plain_scores(llm, between, path, step.candidates, place), abs=1e-3)


class Plain:
    """The LLM's distributions, one whole prefix at a time."""

    def __init__(self, model: LoadedModel, prefix: tuple[int, ...]) -> None:
        self.model, self.prefix = model, prefix

    def logprobs(self, leaf: tuple[int, ...]) -> torch.Tensor:
        return reference.next_logprobs(self.model.model, [*self.prefix, *leaf], [*reserved_ids(self.model), 1])

    def p(self, leaf, token) -> float:
        return math.exp(self.logprobs(leaf)[token])

    def likely(self, leaf):
        values, tokens = self.logprobs(leaf).topk(16)
        return zip(tokens.tolist(), values.exp().tolist(), strict=True)


def plain_scores(llm, between, path, candidates, answered) -> list[float]:
    query = (
        CandidateQuery(between, path, len(path), candidates)
        if answered
        else CandidateQuery(between, path, 0, candidates)
    )
    return query.log_scores(Plain(llm, path[: query.base]))


class Book:
    """An LLM that is a table: text -> probabilities of what follows, by token text."""

    def __init__(self, spelling: Spelling, table: dict[str, dict[str, float]], base: bytes) -> None:
        self.spelling, self.table, self.base = spelling, table, base

    def after(self, leaf) -> dict[str, float]:
        return self.table.get((self.base + self.spelling.read(leaf)).decode(), {})

    def p(self, leaf, token) -> float:
        return self.after(leaf).get(self.spelling.pieces[token].decode(), 0.0)

    def likely(self, leaf):
        found = self.after(leaf)
        return [(self.spelling.ids[text.encode()], p) for text, p in found.items()]


def scores(running: str, candidates: list[str], table, slm: Pieces, llm: Pieces) -> list[float]:
    between = translation(slm, llm)
    path = (STOP, *between.llm.write(running.encode()))
    query = CandidateQuery(between, path, len(path) - 1, [between.slm.ids[c.encode()] for c in candidates])
    base = between.llm.read(path[: query.base])
    return [math.exp(v) for v in query.log_scores(Book(between.llm, table, base))]


def test_a_number_in_digits_is_scored_as_a_number() -> None:
    """The LLM means 14 (0.6) or 145 (0.3): its first digit alone is no candidate's, however probable."""
    table = {
        "is": {" ": 0.9, ".": 0.1},
        "is ": {"1": 1.0},
        "is 1": {"4": 1.0},
        "is 14": {"5": 1 / 3, ".": 2 / 3},
        "is 145": {".": 1.0},
    }
    found = scores("is", [" 1", " 14", " 145", "."], table, "words", "digits")
    assert found == pytest.approx([0.0, 0.6, 0.3, 0.1])


def test_the_beginning_of_a_longer_token_is_not_punished() -> None:
    """The SLM writes digit by digit, the LLM whole numbers: what it gives " 145" and " 14" goes to the space."""
    table = {"is": {" 145": 0.5, " 14": 0.2, ".": 0.3}}
    assert scores("is", [" ", ".", " has"], table, "digits", "words") == pytest.approx([0.7, 0.3, 0.0])


def test_a_boundary_that_the_llm_would_not_draw_is_healed() -> None:
    """Behind "is 1" the LLM, which writes numbers whole, is asked what it would have written instead of " 1"."""
    table = {"is": {" 1": 0.1, " 14": 0.6, " 15": 0.1, " has": 0.2}, "is 1": {".": 0.9, "4": 0.1}}
    found = scores("is 1", ["4", "5", "."], table, "digits", "words")
    assert found == pytest.approx([(0.01 + 0.6) / 0.8, 0.1 / 0.8, 0.09 / 0.8])


def spelled(pieces: Pieces, text: str) -> list[int]:
    return ids(loaded(pieces), text)


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.sampled_from("ab 1907.\né中文😀👩‍🚀Ann pens")),
    st.sampled_from(list(product(("words", "digits"), repeat=2))),
)
def test_word_by_word_is_the_tokenisation_of_the_whole_text(text, pair) -> None:
    between = translation(*pair)
    tokens = spelled(pair[0], text)
    assert between.to_llm(tokens) == spelled(pair[1], text)
    for size in range(len(tokens)):
        part = between.slm.read(tokens[:size])
        assert between.llm.read(between.to_llm(tokens[:size])) == part, "every byte survives, of broken characters too"
        words = between.words(tokens[:size])
        assert between.words(tokens[: size + 1])[: len(words) - 1] == words[:-1], "only the last word is unstable"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.text(st.sampled_from("ab 19.é😀 pens"), max_size=8)), max_size=8))
@example([(0, "1"), (0, "1 "), (1, "ena")])
def test_rewriting_a_text_that_grows_and_is_cut_is_rewriting_it_anew(edits) -> None:
    between = translation("words", "digits")
    listener = Listener(between, 0, (0,), 512)
    answer: list[int] = []
    for cut, text in edits:
        answer = [*answer[: max(0, len(answer) - cut)], *spelled("words", text)]
        assert listener.rewrite(answer) == between.to_llm(answer)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(35, 1578), max_size=12))
def test_any_tokens_keep_their_bytes(tokens) -> None:
    between = translation("words", "digits")
    assert between.llm.read(between.to_llm(tokens)) == between.slm.read(tokens)
    same = translation()
    assert same.to_llm(tokens) == tokens


DECODE = DecodeConfig(max_new_tokens=16)
SOME = SelectConfig(trigger="random", trigger_budget=0.5, candidates=6)


def calibrated(slm: LoadedModel, llm: LoadedModel) -> Session:
    session = Session(slm=slm, llm=llm)
    values = {name: [np.arange(100) / 100] for name in ("kl", "entropy", "margin")}
    session.calibration = Calibration.fit(values, [], slm.fingerprint, llm.fingerprint)
    return session


def test_padding_of_a_vocabulary_is_no_vocabulary() -> None:
    """Same tokens, more rows in one head: a shared vocabulary, whose spare rows nobody writes or compares."""
    slm = loaded()
    wide = LoadedModel(tiny_model("llama", vocab=len(slm.tokenizer) + 133, seed=1), slm.tokenizer, "padded")
    assert reserved_ids(wide) >= set(range(len(slm.tokenizer), wide.vocab_size))
    for pair in ((slm, wide), (wide, slm)):
        session = calibrated(*pair)
        assert session.shares_vocabulary
        results = session.generate(TEXTS, "s2t", DECODE, SelectConfig(trigger_budget=1.0))
        assert any(result.fired_count for result in results)
        tokens = {token for r in results for step in r.steps for token in (step.token, *step.candidates)}
        assert max(tokens) < len(slm.tokenizer)
        labels = dict(session.label(TEXTS, [r.tokens for r in results]))
        assert max(labels[0].llm_top_ids.max(), labels[0].slm_ids.max()) < len(slm.tokenizer)


@pytest.mark.parametrize("method", ["llm", "takeover", "s2t", "mentor-free", "mentor-coin"])
def test_every_method_with_an_llm_works_with_two_vocabularies(method: str) -> None:
    session = calibrated(loaded(), loaded("digits", seed=1))
    assert not session.shares_vocabulary
    for answer in session.generate(TEXTS, method, DECODE, SOME, MentorConfig(consult_rate=1.0, segment_tokens=4)):
        assert answer.text and len(answer.tokens) <= 16
        assert answer.counts.llm_forwards and answer.counts.llm_tokens_processed
        assert max(answer.tokens) < session.slm.vocab_size


def test_the_kl_trigger_is_refused_with_those_that_work_and_entropy_is_the_default() -> None:
    session = calibrated(loaded(), loaded("digits", seed=1))
    with pytest.raises(S2TError, match=r"SLM's vocabulary: choose entropy, margin, random, learned"):
        session.generate(TEXTS, "s2t", DECODE, SelectConfig(trigger="kl"))
    asked = [session.generate(TEXTS, "s2t", DECODE, SelectConfig(trigger=name)) for name in (None, "entropy")]
    assert [g.tokens for g in asked[0]] == [g.tokens for g in asked[1]]
    assert method_settings(session, "s2t", EvalSettings(DECODE))["select"]["trigger"] == "entropy"
    with pytest.raises(S2TError, match=r"different vocabularies .* this needs one"):
        dict(session.label(TEXTS[:1], [[5, 6]]))
    with pytest.raises(S2TError, match="--no-llm"):
        calibrate(session, [Item("a", "w", "1", split="train")])


def test_an_llm_with_a_short_context_is_refused_before_it_is_asked() -> None:
    session = calibrated(loaded(), loaded("digits", seed=1))
    with pytest.raises(PromptTooLong, match=r"a prompt of 5\d\d tokens"):
        session.generate(["1" * 300 + "x" * 196], "llm", DECODE)


def test_an_answer_that_is_longer_in_the_llms_tokens_has_room_before_it_begins() -> None:
    """Numbers are single tokens of the SLM and digits of the LLM; the memory has no room for all questions at once."""
    select = SelectConfig(trigger="random", trigger_budget=0.1, candidates=1)
    found = []
    for memory in (0.01, 0.00026):  # 1090 slots
        runtime = RuntimeConfig(kv_memory_gib=memory)
        session = Session(slm=loaded(seed=1), llm=loaded("digits", seed=1), runtime=runtime)
        found.append(session.generate([TEXTS[1]] * 4, "takeover", DecodeConfig(max_new_tokens=150), select))
    assert [answer.tokens for answer in found[0]] == [answer.tokens for answer in found[1]]
    assert len(session.llm_prompt(TEXTS[1])) + len(session.translation.to_llm(found[0][0].tokens)) > 256


@cache
def blocks(spanning: bool) -> LoadedModel:
    """The other kind of vocabulary: spaces as low blocks, one put before a text; stray bytes as <0x0A>. Its tokens stay
    inside words, or not."""
    words = ["▁Today", "▁Ann", "▁has", "▁12", "▁pens."]
    trained = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False)
    trained.train_from_iterator(["".join(words) if spanning else word for word in words for _ in range(9)], trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(pair) for pair in model["merges"]], byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    return LoadedModel(tiny_model("llama", vocab=len(tokenizer)), tokenizer, "blocks")


@pytest.mark.parametrize("spanning", [False, True])
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from("ab 12.\né中😀Ann pens")), cut=st.integers(0, 8))
def test_a_vocabulary_of_low_blocks_writes_any_bytes(spanning: bool, text: str, cut: int) -> None:
    spelling = Spelling(blocks(spanning))
    assert spelling.spans_words is spanning
    data = text.encode()[cut:]
    assert spelling.read(spelling.write(data)) == data
    between = Translation(Spelling(loaded()), spelling)
    tokens = between.slm.write(data)
    assert spelling.read(between.to_llm(tokens)) == data
    if spanning:
        assert tuple(between.to_llm(between.slm.write(text.encode()))) == spelling.write(text.encode())


def test_low_blocks_behind_other_text_begin_with_no_space() -> None:
    spelling = Spelling(blocks(False))
    assert [spelling.pieces[i] for i in spelling.write(b" Today Ann")] == [b" Today", b" Ann"]
    assert spelling.read(spelling.write(b"Today")) == b"Today"
    assert len(spelling.write("\N{GRINNING FACE}".encode())) == 4
    session = calibrated(loaded(), blocks(False))
    for answer in session.generate(TEXTS, "s2t", DECODE, SOME):
        assert answer.text
