"""The law of a remote LLM: the same decisions as with that LLM in process, token for token, whatever the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fake_llm_server import FakeServer
from select_to_think.collect.collect import collect
from select_to_think.collect.records import read_trajectories
from select_to_think.config import CollectConfig, DecodeConfig, MentorConfig, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.contexts.remote.servers import LlamaServer
from select_to_think.evaluation.bench_remote import RemoteRow, bench_remote, median_row
from select_to_think.evaluation.calibrate import calibrate
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.measure import measure
from select_to_think.models.loading import LoadedModel
from select_to_think.session import Session
from select_to_think.structures import Generation, S2TError
from select_to_think.training.distill import train_distill
from select_to_think.training.settings import DistillConfig
from select_to_think.triggers.calibration import QUANTILES, Calibration
from test_two_vocabularies import TEXTS, loaded
from tiny import tiny_loaded, tiny_model, tiny_tokenizer
from training_fixtures import make_trajectories

DECODE = DecodeConfig(max_new_tokens=12)
THIRD = SelectConfig(trigger_budget=0.3)
QUESTIONS = ["w5 w6 w7", "w9", "w8 w30 w31 w32 w12", "w40 w41", "w11 w12 w13"]
EXACT = ("vllm", "sglang", "s2t", "llama-server")
KINDS = (*EXACT, "openai")
SLM, LLM = tiny_loaded(0), tiny_loaded(1, 3)
RUNTIME = RuntimeConfig(kv_memory_gib=0.01, llm_deadline=5.0)
ENTROPY = SelectConfig(trigger="entropy", trigger_budget=0.5)


def items() -> list[Item]:
    return [Item(id=str(n), question=q, answer="w1", domain="d", split="train") for n, q in enumerate(QUESTIONS)]


@cache
def quantiles() -> Mapping[str, Sequence[float]]:
    """Of the pair's statistics."""
    return calibrate(Session(slm=SLM, llm=LLM, runtime=RUNTIME), items(), decode=DECODE).quantiles


def with_thresholds(session: Session) -> Session:
    session.calibration = Calibration(session.slm.fingerprint, session.llm.fingerprint, quantiles(), 1, [])
    return session


@cache
def beside() -> Session:
    """The pair in process."""
    return with_thresholds(Session(slm=SLM, llm=LLM, runtime=RUNTIME))


def apart(server: FakeServer, runtime: RuntimeConfig = RUNTIME, **pair: Any) -> Session:
    """The pair with its LLM behind a server."""
    return with_thresholds(Session(PairConfig(llm=server.url, **pair), slm=SLM, runtime=runtime))


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[FakeServer]:
    with FakeServer(LLM, request.param).running() as server:
        yield server


@pytest.fixture(scope="module")
def pair(server: FakeServer) -> Session:
    return apart(server)


def assert_same(ours: list[Generation], theirs: list[Generation]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.tokens == other.tokens
        for a, b in zip(one.steps, other.steps, strict=True):
            assert (a.fired, a.flip, a.chooser, a.llm_top_token) == (b.fired, b.flip, b.chooser, b.llm_top_token)
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4) and a.candidates == b.candidates
            assert a.statistic == (None if b.statistic is None else pytest.approx(b.statistic, abs=1e-4))
        assert one.counts.llm_tokens_generated == other.counts.llm_tokens_generated
        assert one.counts.llm_failures == 0


@pytest.mark.parametrize("method", ["takeover", "s2t", "mentor-coin", "llm"])
def test_a_method_decides_as_with_the_llm_in_process(pair: Session, method: str) -> None:
    mentor = MentorConfig(consult_rate=0.7, segment_tokens=4)
    ours = pair.generate(QUESTIONS, method, DECODE, ENTROPY, mentor)
    theirs = beside().generate(QUESTIONS, method, DECODE, ENTROPY, mentor)
    assert_same(ours, theirs)
    assert any(step.chooser == "llm" for answer in ours for step in answer.steps)
    scored = [step for answer in ours for step in answer.steps if step.scores]
    if method == "s2t":
        assert scored and all(np.isfinite(step.scores).all() for step in scored)


@pytest.mark.parametrize("block_verified", [True, False])
def test_the_kl_trigger_fires_where_it_does_in_process(server: FakeServer, pair: Session, block_verified: bool) -> None:
    select = SelectConfig(trigger="kl", trigger_budget=0.3, block_verified=block_verified)
    if server.kind == "openai":
        with pytest.raises(S2TError, match=r"kl trigger needs the exact .* most probable tokens.*: choose entropy"):
            pair.generate(QUESTIONS, "s2t", DECODE, select)
        return
    ours = pair.generate(QUESTIONS, "s2t", DECODE, select)
    theirs = beside().generate(QUESTIONS, "s2t", DECODE, select)
    assert_same(ours, theirs)
    values = [[step.statistic for answer in answers for step in answer.steps] for answers in (ours, theirs)]
    assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_measuring_calibrating_and_collecting_see_what_they_see_in_process(
    server: FakeServer, pair: Session, tmp_path: Path
) -> None:
    ours, theirs = pair, beside()
    config = CollectConfig(collect_budget=0.5, entropy_budget=0.5, group_size=6)
    if server.kind == "openai":
        with pytest.raises(S2TError, match=r"exact log-probability .* `s2t serve`"):
            measure(ours, items(), select=THIRD, decode=DECODE)
        with pytest.raises(S2TError, match=r"exact log-probability .* --no-llm"):
            calibrate(ours, items(), decode=DECODE)
        with pytest.raises(S2TError, match="exact log-probability"):
            collect(ours, items(), config, DECODE, tmp_path / "refused")
        return
    rows = [measure(each, items(), select=THIRD, decode=DECODE).rows for each in (ours, theirs)]
    for one, other in zip(*rows, strict=True):
        assert one.hit_at == other.hit_at and one.flip_rate == other.flip_rate and one.n_steps == other.n_steps > 0
    fitted, reference = calibrate(ours, items(), decode=DECODE), calibrate(theirs, items(), decode=DECODE)
    assert fitted.llm_fingerprint == ours.llm.fingerprint
    for name, values in reference.quantiles.items():
        assert fitted.quantiles[name] == pytest.approx(values, abs=1e-3)
    collect(ours, items(), config, DECODE, tmp_path / "ours")
    collect(theirs, items(), config, DECODE, tmp_path / "theirs")
    groups = 0
    for one, other in zip(read_trajectories(tmp_path / "ours"), read_trajectories(tmp_path / "theirs"), strict=True):
        assert one.output_ids == other.output_ids
        for a, b in zip(one.groups, other.groups, strict=True):
            groups += 1
            assert (a.position, a.candidates, a.chosen) == (b.position, b.candidates, b.chosen)
            assert a.llm_logprobs == pytest.approx(b.llm_logprobs, abs=1e-4)
            assert a.llm_best_outside_logprob == pytest.approx(b.llm_best_outside_logprob, abs=1e-4)
    assert groups > 10


def test_requests_are_prefixes_of_what_the_server_has_read(server: FakeServer) -> None:
    server.read_tokens = server.cached_tokens = 0
    server.cached.clear()
    [answer] = apart(server).generate(QUESTIONS[:1], "takeover", DECODE, ENTROPY)
    assert answer.counts.llm_forwards > 3
    # What was not in the cache: the probes of the introduction, and then each token of the sequence once.
    introduced = 40 if server.kind != "openai" else 400
    assert server.read_tokens - server.cached_tokens <= introduced + len(answer.tokens)


@pytest.mark.parametrize("method", ["llm", "takeover", "s2t", "mentor-free"])
def test_an_llm_with_other_tokens_is_asked_in_its_own(method: str, tmp_path: Path) -> None:
    slm, llm = loaded("words", 0), loaded("digits", 1)
    llm.tokenizer.save_pretrained(tmp_path)
    with FakeServer(llm, "vllm").running() as server:
        session = Session(PairConfig(llm=server.url, llm_tokenizer=str(tmp_path)), slm=slm, runtime=RUNTIME)
        reference = Session(slm=slm, llm=llm, runtime=RUNTIME)
        for each in (session, reference):
            each.calibration = Calibration(slm.fingerprint, None, {"entropy": [0.5] * QUANTILES}, 1, [])
        ours, theirs = (each.generate(TEXTS[:2], method, DECODE, ENTROPY) for each in (session, reference))
        assert [answer.tokens for answer in ours] == [answer.tokens for answer in theirs]
        with pytest.raises(S2TError, match=r"other tokens than .* \(the SLM\): name its own with --llm-tokenizer"):
            _ = Session(PairConfig(llm=server.url), slm=slm).llm


def test_a_large_vocabulary_behind_llama_server_is_selected_from_but_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LlamaServer, "exact_vocabulary", 10)
    monkeypatch.setattr(LlamaServer, "first_top", 2)  # so that candidates are missing from the most probable tokens
    with FakeServer(LLM, "llama-server").running() as server:
        ours = apart(server).generate(QUESTIONS, "s2t", DECODE, replace(ENTROPY, candidates=3))
        assert any("post_sampling_probs" in body for body in server.bodies)
        with pytest.raises(S2TError, match=r"only probabilities among candidates: serve the LLM with vLLM"):
            apart(server).generate(QUESTIONS, "s2t", DECODE, SelectConfig(trigger="kl"))
    assert_same(ours, beside().generate(QUESTIONS, "s2t", DECODE, replace(ENTROPY, candidates=3)))


def test_a_candidate_below_the_most_probable_tokens_is_asked_for_or_left_to_the_slm() -> None:
    select = replace(ENTROPY, candidates=3)
    with FakeServer(LLM, "openai", top_limit=20).running() as server:
        session = apart(server)
        session.reached.server.longest_top = 2  # type: ignore[union-attr, misc]
        ours = session.generate(QUESTIONS, "s2t", DECODE, select)
        assert any("logit_bias" in body for body in server.bodies)
    assert_same(ours, beside().generate(QUESTIONS, "s2t", DECODE, select))

    class Deaf(FakeServer):
        def choose(self, values: Any, bias: Any) -> int:
            return super().choose(values, ())

    with Deaf(LLM, "openai").running() as server:
        session = apart(server)
        session.reached.server.longest_top = 2  # type: ignore[union-attr, misc]
        answers = session.generate(QUESTIONS, "s2t", DECODE, select)
    failed = [step for answer in answers for step in answer.steps if step.llm_failed]
    assert failed and all(step.token == step.greedy_token and step.chooser == "slm" for step in failed)
    assert sum(answer.counts.llm_failures for answer in answers) == len(failed)


def test_a_reserved_token_is_never_written_however_much_a_server_prefers_it() -> None:
    pair = []
    for seed in (0, 1):
        model, tokenizer = tiny_model("qwen2", seed=seed), tiny_tokenizer(60)
        tokenizer.add_tokens(["<|reserved_0|>"])
        with torch.no_grad():
            head = model.get_output_embeddings().weight
            head[60] = 9.0 * head[5]
        pair.append(LoadedModel(model, tokenizer, f"reserved-{seed}"))
    often = SelectConfig(trigger="random", trigger_budget=0.5)
    with FakeServer(pair[1], "vllm").running() as server:
        away = Session(PairConfig(llm=server.url), slm=pair[0], runtime=RUNTIME)
        ours = away.generate(QUESTIONS, "takeover", DECODE, often)
    assert_same(ours, Session(slm=pair[0], llm=pair[1], runtime=RUNTIME).generate(QUESTIONS, "takeover", DECODE, often))
    assert not any(60 in answer.tokens for answer in ours)


def test_rows_that_wait_for_a_server_leave_their_places_to_others() -> None:
    decode = replace(DECODE, max_batch=4, max_new_tokens=4)
    with FakeServer(LLM, "vllm", delay_s=0.05).running() as server:
        answers = apart(server).generate(QUESTIONS * 3, "llm", decode)
    assert_same(answers, beside().generate(QUESTIONS * 3, "llm", decode))
    assert 4 < server.most_at_once <= 6


def ask(session: Session, question: str, stop: Sequence[str], method: str, select: SelectConfig) -> Generation:
    [(_, answer)] = session.stream([question], method, replace(DECODE, max_new_tokens=20), select, stop=stop)
    return answer


@pytest.mark.parametrize(
    ("method", "trigger", "warm_up_steps"),
    [("s2t", "entropy", 0), ("s2t", "random", 0), ("s2t", "random", 4), ("takeover", "margin", 0)],
)
def test_going_on_while_the_llm_selects_changes_no_token(method: str, trigger: str, warm_up_steps: int) -> None:
    """One row: it goes on behind all candidates. The stop string and the limit cut chains, too."""
    select = SelectConfig(trigger=trigger, trigger_budget=0.3, warm_up_steps=warm_up_steps)
    asked = [(question, stop) for question in QUESTIONS[:3] for stop in ((), ("w7",))]
    with FakeServer(LLM, "vllm", delay_s=0.02).running() as server:
        waits, goes_on = (apart(server, replace(RUNTIME, llm_guess=guess)) for guess in (False, True))
        for session in (waits, goes_on):
            answers = [ask(session, *each, method, select) for each in asked]
            discarded = sum(answer.counts.slm_tokens_discarded for answer in answers)
            assert (discarded > 0) == (session is goes_on)
            assert_same(answers, [ask(beside(), *each, method, select) for each in asked])


def distilled(session: Session, kind: Any, out: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """The adapter that a pair learns."""
    about: dict[str, Any] = {"lora_rank": 2, "epochs": 1.0, "batch_trajectories": 8, "llm_top_k": 6, **settings}
    train_distill(session, make_trajectories(24), DistillConfig(kind=kind, **about), DISTILLING, out)
    return load_file(out / "adapter_model.safetensors")


DISTILLING = DecodeConfig(max_new_tokens=6, max_batch=16)


@cache
def distilled_in_process(kind: str) -> dict[str, torch.Tensor]:
    with TemporaryDirectory() as folder:
        return distilled(beside(), kind, Path(folder) / "adapter")


@pytest.mark.parametrize("kind", ["kd", "sft"])
def test_distilling_learns_from_a_server_what_it_learns_in_process(
    server: FakeServer, pair: Session, kind: str, tmp_path: Path
) -> None:
    if server.kind == "openai" and kind == "kd":
        with pytest.raises(S2TError, match="exact log-probability"):
            distilled(pair, kind, tmp_path / "refused")
        return
    with pytest.raises(S2TError, match="weights of the LLM"):
        distilled(pair, "kd", tmp_path / "refused", llm_top_k=0)
    found = distilled(pair, kind, tmp_path / "adapter")
    for key, tensor in distilled_in_process(kind).items():
        torch.testing.assert_close(found[key], tensor, atol=1e-3, rtol=1e-2, msg=key)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_the_bench_tells_the_median_of_each_number() -> None:
    numbers = (0.5, 1.0, 0.1, 50.0, 0.9, 0.5)
    rounds = ((100.0, True), (60.0, True), (10.0, False))
    one, other, third = (RemoteRow(50.0, 1, True, rate, *numbers, 1, same) for rate, same in rounds)
    assert median_row([one, other]) == RemoteRow(50.0, 1, True, 80.0, *numbers, 2, True)
    assert median_row([one, other, third]) == RemoteRow(50.0, 1, True, 60.0, *numbers, 3, False)


def test_the_bench_holds_answers_back_and_changes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(LLM).running() as server:
        monkeypatch.setattr("select_to_think.evaluation.bench_remote.Session", lambda pair: apart(server))
        about = {"latencies_ms": [0, 40], "batches": [1, 3], "jitter": 0.0, "new_tokens": 6, "repeats": 1}
        rows = bench_remote(PairConfig(llm=server.url), QUESTIONS[:3], "s2t", ENTROPY, **about)
    assert [(row["rows"], row["guess"], row["latency_ms"]) for row in rows] == [
        (rows, guess, latency) for rows, guess in ((1, False), (1, True), (3, False)) for latency in (0, 40)
    ]
    assert all(row["same_tokens"] and row["llm_failures"] == 0 for row in rows)
    near, far = (row for row in rows if (row["rows"], row["guess"]) == (1, False))
    assert near["llm_requests_per_token"] == far["llm_requests_per_token"] > 0
    assert 1 / far["tokens_per_second"] >= 0.04 * far["llm_requests_per_token"]
    assert near["relative_throughput"] == 1.0 > far["relative_throughput"]
    monkeypatch.undo()
    with pytest.raises(S2TError, match="behind a server"):
        bench_remote(PairConfig(), QUESTIONS, "s2t", ENTROPY, **about)
