"""What goes wrong on the way to a server: every fault at every call, and never a wrong or a cut answer."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from fake_llm_server import FAULTS, FakeServer
from select_to_think.collect.collect import collect
from select_to_think.collect.records import read_trajectories
from select_to_think.config import CollectConfig, EvalSettings, MentorConfig, PairConfig, RuntimeConfig
from select_to_think.contexts.remote.detection import alike
from select_to_think.contexts.remote.questions import Query, Seen, ranked
from select_to_think.contexts.remote.servers import VLLM, LlamaServer, OpenAI
from select_to_think.contexts.remote.transport import Missed, Transport, Turns
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.results import read_records
from select_to_think.evaluation.runner import evaluate
from select_to_think.methods import LLM as LLM_ROLE
from select_to_think.policies.label import along
from select_to_think.session import Session
from select_to_think.structures import ModelUnavailable, Observe, S2TError, Undecided
from test_remote_laws import DECODE, ENTROPY, LLM, QUESTIONS, SLM, apart, assert_same, beside, items
from tiny import tiny_loaded

KINDS = ("vllm", "sglang", "llama-server", "openai")
PATIENT = RuntimeConfig(kv_memory_gib=0.01, llm_timeout=5.0, llm_deadline=120.0)
HASTY = replace(PATIENT, llm_timeout=0.3, llm_deadline=0.6)
SHORT = replace(PATIENT, llm_deadline=2.0)
GO_ON = replace(DECODE, on_llm_failure="continue")
INTRODUCED = 4  # questions that a server is asked before it is used, at most


def whole(method: str = "s2t") -> list:
    return beside().generate(QUESTIONS, method, DECODE, ENTROPY)


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("select_to_think.contexts.remote.transport.FIRST_PAUSE_S", 0.01)


def known(server: FakeServer, runtime: RuntimeConfig = HASTY) -> Session:
    """A session that has met its server, and is as impatient as said from then on."""
    session = apart(server, PATIENT)
    _ = session.llm
    transport_of(session).config = runtime
    return session


def transport_of(session: Session) -> Transport:
    assert session.reached is not None
    return session.reached.server.transport


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_at_any_call_changes_nothing(kind: str) -> None:
    """Every second question fails, in every way in turn: each is asked again."""
    ways = random.Random(kind).sample(FAULTS, len(FAULTS))
    met = set()

    def faults(n: int) -> str | None:
        fault = ways[n // 2 % len(ways)] if n % 2 == 0 else None
        met.add(fault)
        return fault

    with FakeServer(LLM, kind, hang_s=2.0).running() as server:
        session = known(server, replace(PATIENT, llm_timeout=1.0))
        server.faults = faults
        assert_same(session.generate(QUESTIONS, "takeover", DECODE, ENTROPY), whole("takeover"))
        assert met == {None, *FAULTS}
        assert transport_of(session).traffic.retries >= len(FAULTS)


@pytest.mark.parametrize("fault", ["hang", "503", "nan"])
def test_a_server_that_stays_broken_ends_the_answer_or_is_done_without(fault: str) -> None:
    with FakeServer(LLM, "vllm").running() as server:
        session = known(server)
        server.faults = lambda n: fault
        with pytest.raises(ModelUnavailable, match=rf"the LLM at {server.url[:-3]} does not answer \(.+\)"):
            session.generate(QUESTIONS, "s2t", DECODE, ENTROPY)
        answers = session.generate(QUESTIONS, "s2t", GO_ON, ENTROPY)
        mentored = session.generate(QUESTIONS, "mentor-coin", GO_ON, mentor=MentorConfig(consult_rate=1.0))
    greedy = beside().generate(QUESTIONS, "greedy", DECODE)
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in greedy], "the SLM's own choices"
    fired = [step for answer in answers for step in answer.steps if step.fired]
    assert fired and all(step.llm_failed and step.chooser == "slm" for step in fired)
    assert sum(answer.counts.llm_failures for answer in answers) == len(fired)
    assert [answer.finish_reason for answer in answers] == [answer.finish_reason for answer in greedy]
    assert [answer.tokens for answer in mentored] == [answer.tokens for answer in greedy]
    assert all(answer.counts.llm_failures == answer.counts.consultations > 0 for answer in mentored)


def test_no_attempt_is_longer_than_what_is_left_of_the_deadline() -> None:
    with FakeServer(LLM, "vllm", hang_s=4.0).running() as server:
        session = known(server, replace(PATIENT, llm_timeout=20.0, llm_deadline=0.5))
        server.faults = lambda n: "hang"
        with pytest.raises(ModelUnavailable, match="no answer within"):
            session.generate(QUESTIONS[:1], "llm", DECODE)


def test_an_answer_of_another_form_is_asked_for_again() -> None:
    class Odd(FakeServer):
        def answer(self, path, asked, fault):  # type: ignore[no-untyped-def]
            real = super().answer(path, asked, fault)
            odd = [None, [], 3, *({**real, "choices": choices} for choices in (None, [], [3], {}))]
            return odd[self.asked // 2 % len(odd)] if fault and self.asked % 2 else real

    with Odd(LLM, "vllm").running() as server:
        session = known(server, PATIENT)
        server.faults = lambda n: "another form"
        assert_same(session.generate(QUESTIONS, "llm", DECODE), whole("llm"))
        assert transport_of(session).traffic.retries >= 7


def test_the_answer_to_another_request_is_not_taken() -> None:
    """As a proxy that mixes up its connections gives it: of the same length, and of other tokens."""

    class Mixing(FakeServer):
        former = None

        def answer(self, path, asked, fault):  # type: ignore[no-untyped-def]
            real = super().answer(path, asked, fault)
            mixed = self.former if fault and self.asked % 2 and self.former else real
            self.former = real if "choices" in real else self.former
            return {**mixed, "usage": real["usage"]} if "choices" in mixed else mixed

    with Mixing(LLM, "vllm").running() as server:
        session = known(server, PATIENT)
        server.faults = lambda n: "mixed"
        assert_same(session.generate(QUESTIONS, "llm", DECODE), whole("llm"))
        assert transport_of(session).traffic.retries > 9


@pytest.mark.parametrize("speaks", [False, True])
def test_a_dead_server_costs_one_deadline_not_one_a_step(speaks: bool) -> None:
    with FakeServer(LLM, "vllm").running() as server:
        session = known(server, replace(HASTY, llm_deadline=1.0))
        if speaks:  # its engine has died, and it still says which models it serves
            server.faults = lambda n: "503"
            transport_of(session).restarted = True
        else:
            server.stop()
        begun = time.monotonic()
        answers = session.generate(QUESTIONS, "takeover", GO_ON, replace(ENTROPY, trigger="random", trigger_budget=1.0))
        assert sum(answer.counts.llm_failures for answer in answers) == sum(len(answer.tokens) for answer in answers)
        assert time.monotonic() - begun < 20.0, "one deadline for each of the 60 steps would be a minute"


def test_a_server_that_comes_back_is_asked_again() -> None:
    with FakeServer(LLM, "vllm").running() as server:
        session = known(server)
        server.stop()
        assert session.generate(QUESTIONS, "s2t", GO_ON, ENTROPY)[0].counts.llm_failures > 0
        server.start()
        transport_of(session).config = PATIENT
        limit = time.monotonic() + 30
        while transport_of(session).lost is not None and time.monotonic() < limit:
            time.sleep(0.02)
        assert_same(session.generate(QUESTIONS, "s2t", GO_ON, ENTROPY), whole())


def test_a_request_that_no_server_can_answer_takes_the_llm_away_from_nobody_else() -> None:
    with FakeServer(LLM, "vllm").running() as server:
        session = known(server, SHORT)  # innocent requests have time enough
        poison = session.prompt(QUESTIONS[0], 1, with_llm=True)
        server.faults = lambda n: "500" if server.bodies[-1]["prompt"][: len(poison)] == poison else None
        assert session.generate(QUESTIONS[:1], "s2t", GO_ON, ENTROPY)[0].counts.llm_failures > 0
        limit = time.monotonic() + 30
        while transport_of(session).lost is not None and time.monotonic() < limit:
            time.sleep(0.02)
        assert_same(session.generate(QUESTIONS[1:], "s2t", GO_ON, ENTROPY), whole()[1:])
        together = session.generate(QUESTIONS, "s2t", GO_ON, ENTROPY)
        assert not any(answer.counts.llm_failures for answer in together[1:])


def test_a_server_that_is_restarted_in_the_midst_changes_nothing() -> None:
    with FakeServer(LLM, "vllm", delay_s=0.02).running() as server:
        session = known(server, PATIENT)

        def restart() -> None:
            time.sleep(0.15)
            server.stop()
            time.sleep(0.2)
            server.start()

        thread = threading.Thread(target=restart)
        thread.start()
        decode = replace(DECODE, max_new_tokens=40)
        answers = session.generate(QUESTIONS, "llm", decode)
        thread.join()
        assert_same(answers, beside().generate(QUESTIONS, "llm", decode))


def test_a_server_that_dies_ends_a_run_that_goes_on_when_it_is_back(tmp_path: Path) -> None:
    """Evaluation and collection: what was answered stays, and the end is that of an undisturbed run."""
    tests = [Item(f"t{n}", question, "w1", "d", "test") for n, question in enumerate(QUESTIONS)]
    settings = EvalSettings(replace(DECODE, max_batch=1), ENTROPY)

    def evaluated(session: Session, folder: str) -> list:
        evaluate(session, tests, ["takeover"], settings, out=tmp_path / folder)
        [file] = (tmp_path / folder).rglob("*.jsonl")
        return sorted((record.id, record.text) for record in read_records(file))

    def collected(session: Session, folder: str) -> list:
        config = CollectConfig(collect_budget=0.5, entropy_budget=0.5, group_size=6)
        collect(session, items(), config, replace(DECODE, max_batch=1), tmp_path / folder)
        return [trajectory.output_ids for trajectory in read_trajectories(tmp_path / folder)]

    for work in (evaluated, collected):
        with FakeServer(LLM, "vllm").running() as server:
            undisturbed = work(known(server, PATIENT), f"{work.__name__} undisturbed")
            session, last = known(server), server.asked + 15
            server.faults = lambda n, last=last: "reset" if n > last else None  # type: ignore[misc]
            with pytest.raises(ModelUnavailable):
                work(session, f"{work.__name__} again")
            server.faults = lambda n: None
            assert work(known(server, PATIENT), f"{work.__name__} again") == undisturbed


def change_weights(server: FakeServer) -> None:
    server.loaded = tiny_loaded(9, 3)
    server.known.clear()


def change_name(server: FakeServer) -> None:
    server.name = "tiny/other"


@pytest.mark.parametrize(("change", "fault"), [(change_weights, "reset"), (change_name, None)])
def test_another_model_behind_the_address_is_told_and_never_mixed_in(
    change: Callable[[FakeServer], None], fault: str | None
) -> None:
    """A broken connection, or a server that does not know the name (any more), is reason to ask who is there."""
    with FakeServer(LLM, "vllm").running() as server:
        session = apart(server, PATIENT)
        session.generate(QUESTIONS[:1], "llm", DECODE)
        change(server)
        first = server.asked + 1
        server.faults = lambda n: fault if n == first else None
        for decode in (DECODE, GO_ON):
            with pytest.raises(S2TError, match=r"no longer serves 'tiny/llm' as it did .* start anew") as caught:
                session.generate(QUESTIONS, "llm", decode)
            assert not isinstance(caught.value, ModelUnavailable)
        server.loaded, server.name = LLM, "tiny/llm"
        server.known.clear()
        assert_same(session.generate(QUESTIONS, "llm", DECODE), beside().generate(QUESTIONS, "llm", DECODE))


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (((2, -0.9), (1, -1.1), (4, -3.0)), True),  # as arithmetic in another order may tell it
        (((4, -0.9), (1, -1.0), (2, -1.2)), False),  # its best token was not told before
        (((1, -0.3), (2, -1.2), (3, -2.0)), False),
        (((1, -1.0), (2, -1.2), (3, -3.0)), False),
    ],
)
def test_what_two_answers_to_the_probe_must_share(now: tuple, same: bool) -> None:
    before = ((1, -1.0), (2, -1.2), (3, -2.0))
    assert alike(Seen(before, {}), Seen(now, {})) == same


def test_a_model_that_answers_under_another_name_is_not_believed() -> None:
    class Renamed(FakeServer):
        def answer(self, path, asked, fault):  # type: ignore[no-untyped-def]
            return {**super().answer(path, asked, fault), **({"model": "sly"} if self.asked > INTRODUCED else {})}

    with Renamed(LLM, "vllm").running() as server, pytest.raises(S2TError, match="it answers as 'sly'"):
        apart(server, PATIENT).generate(QUESTIONS, "llm", DECODE)


def test_requests_are_no_more_at_once_than_allowed() -> None:
    with FakeServer(LLM, "vllm", delay_s=0.01).running() as server:
        session = apart(server, replace(PATIENT, llm_concurrency=3))
        session.generate(QUESTIONS * 3, "llm", replace(DECODE, max_new_tokens=4))
        assert server.most_at_once == 3


def test_a_server_that_asks_to_be_left_alone_is() -> None:
    class Busy(FakeServer):
        refused: list[float] = []  # noqa: RUF012
        asked_at: list[float] = []  # noqa: RUF012

        def answer(self, path, asked, fault):  # type: ignore[no-untyped-def]
            self.asked_at.append(time.monotonic())
            if fault == "429":
                self.refused.append(time.monotonic())
            return super().answer(path, asked, fault)

    with Busy(LLM, "vllm").running() as server:
        session = known(server, PATIENT)
        server.faults = lambda n: "429" if n % 5 == 0 else None
        server.asked_at.clear()
        session.generate(QUESTIONS[:1], "llm", DECODE)
    for refused in server.refused:
        later = [at - refused for at in server.asked_at if at > refused]
        assert not later or min(later) >= 0.05


def test_who_asks_a_server_that_another_was_told_to_leave_alone_waits_too() -> None:
    with FakeServer(LLM, "vllm").running() as server:
        session = known(server, PATIENT)
        with pytest.raises(Missed, match="HTTP 429"):
            transport_of(session).judge(httpx.Response(429, headers={"retry-after": "0.5"}), lambda answer: answer)
        begun = time.monotonic()
        session.generate(QUESTIONS[:1], "llm", replace(DECODE, max_new_tokens=1))
        assert time.monotonic() - begun >= 0.45


@pytest.mark.parametrize(
    ("settings", "pair", "message"),
    [
        ({"key": "secret"}, {}, r"refuses the key \(HTTP 401\): set S2T_LLM_API_KEY"),
        ({}, {"llm_model": "other"}, r"serves no model 'other'; choose from: tiny/llm"),
        ({"tokenizes": False}, {}, r"does not show its tokens: name its tokenizer with --llm-tokenizer"),
        ({}, {"llm_kind": "llama-server"}, r"name its tokenizer|other tokens|does not tell"),
        ({}, {"llm_kind": "vlm"}, r"did you mean 'vllm'"),
        ({}, {"llm_tokenizer": "/nowhere"}, r"cannot load the tokenizer '/nowhere'"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(settings: dict, pair: dict, message: str) -> None:
    with FakeServer(LLM, "vllm", **settings).running() as server, pytest.raises(S2TError, match=message):
        _ = Session(PairConfig(llm=server.url, **pair), slm=SLM, runtime=SHORT).llm


def test_a_server_that_cuts_texts_otherwise_but_has_the_same_ids_shares_the_vocabulary() -> None:
    """As llama-server does whose checkpoint was converted with another pre-tokenizer: it is sent ids."""

    class Cutting(FakeServer):
        def answer(self, path, asked, fault):  # type: ignore[no-untyped-def]
            return {"tokens": [5, 6]} if path == "/tokenize" else super().answer(path, asked, fault)

    with Cutting(LLM, "llama-server").running() as server:
        assert apart(server).shares_vocabulary
        server.loaded = tiny_loaded(1, 3, words=60)  # other words from w60 on
        with pytest.raises(S2TError, match="has other tokens"):
            _ = apart(server).llm


def test_nobody_at_the_address_is_told_at_once() -> None:
    begun = time.monotonic()
    with pytest.raises(S2TError, match=r"there is no LLM at http://127.0.0.1:9/v1/models \(ConnectError.* --llm"):
        _ = Session(PairConfig(llm="http://127.0.0.1:9/v1"), slm=SLM).llm
    assert time.monotonic() - begun < 3


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for another address")
    monkeypatch.setenv("S2T_LLM_API_KEY", "secret")
    with FakeServer(LLM, "vllm", key="secret").running() as server:
        assert apart(server).llm.name.startswith("tiny/llm at 127.0.0.1")
        monkeypatch.delenv("S2T_LLM_API_KEY")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")  # which is not shown over http
        with pytest.raises(S2TError, match="refuses the key"):
            _ = apart(server).llm


@pytest.mark.parametrize("key", ["sk-\u201csecret\u201d", "sk-secret\n2"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2T_LLM_API_KEY", key)
    with pytest.raises(S2TError, match="S2T_LLM_API_KEY holds signs that no key has") as caught:
        _ = Session(PairConfig(llm="http://127.0.0.1:9/v1"), slm=SLM).llm
    assert "secret" not in str(caught.value)


def test_blanks_around_a_key_are_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2T_LLM_API_KEY", " secret\n")
    with FakeServer(LLM, "vllm", key="secret").running() as server:
        assert apart(server).llm.name.startswith("tiny/llm")


@pytest.mark.parametrize(
    "address",
    ["http://[::1", "http://localhost:abc/v1", "http://localhost:99999/v1", "localhost:8000/v1", "10.0.0.7:8000"],
)
def test_what_is_no_address_is_one_line(address: str) -> None:
    with pytest.raises(S2TError, match=r"is no address .* write http://host:port/v1"):
        _ = Session(PairConfig(llm=address), slm=SLM).llm


@pytest.mark.parametrize("address", ["http://me:secret@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?key=secret"])
def test_secrets_in_an_address_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(S2TError, match="S2T_LLM_API_KEY") as caught:
        _ = Session(PairConfig(llm=address), slm=SLM).llm
    assert "secret" not in str(caught.value).replace("no secrets", "")


def test_a_server_without_log_probabilities_is_refused() -> None:
    class Silent(FakeServer):
        def completions(self, asked, fault):  # type: ignore[no-untyped-def]
            answer = super().completions(asked, fault)
            answer["choices"][0]["logprobs"] = None
            return answer

    with Silent(LLM, "openai").running() as server, pytest.raises(S2TError, match="does not tell log-probabilities"):
        _ = apart(server, SHORT).llm


def test_an_old_vllm_that_ignores_the_asked_ids_is_refused() -> None:
    class Old(FakeServer):
        def completions(self, asked, fault):  # type: ignore[no-untyped-def]
            return super().completions({**asked, "logprob_token_ids": None}, fault)

    with Old(LLM, "vllm").running() as server, pytest.raises(S2TError, match="did not tell all asked ids"):
        _ = apart(server, SHORT).llm


def test_a_reader_who_leaves_takes_its_requests_back() -> None:
    with FakeServer(LLM, "vllm").running() as server:
        session = apart(server, PATIENT)
        stream = session.stream(QUESTIONS, "llm", replace(DECODE, max_batch=2))
        next(stream)
        server.delay_s = 0.2
        assert session.backends["llm"].waiting
        stream.close()  # type: ignore[attr-defined]
        assert not session.backends["llm"].waiting


def tops(session: Session, top_k: int) -> list[tuple[list[list[int]], list[list[float]]]]:
    """The LLM's most probable tokens along some texts."""
    pairs = [([5 + n, 6], [7 + n % 3, 8, 9, 30, 31, 32, 12]) for n in range(12)]
    look = Observe(top_k, every=True)
    runs = ((n, session.run(along("llm", *pair, look), {"llm": LLM_ROLE}, 9)) for n, pair in enumerate(pairs))
    found = dict(session.results(runs, DECODE))
    return [(found[n].top_ids.tolist(), np.round(found[n].top_logprobs, 3).tolist()) for n in range(len(pairs))]


def test_ids_that_others_ask_for_take_nothing_away() -> None:
    """A step of vLLM in which anybody asks for ids tells the others one token."""
    expected = tops(beside(), 5)
    with FakeServer(LLM).running() as server, ThreadPoolExecutor() as threads:
        one, other = known(server, PATIENT), known(server, PATIENT)
        asked = threads.submit(other.generate, QUESTIONS, "s2t", DECODE, ENTROPY)
        while not asked.done():
            assert tops(one, 5) == expected
        assert_same(asked.result(), whole())


def test_most_probable_tokens_that_nobody_tells_are_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(LLM).running() as server:
        session = known(server, PATIENT)
        before = server.asked
        monkeypatch.setattr(VLLM, "attempts", 4)
        monkeypatch.setattr(server, "beside", lambda asked: {"ids": False, "crowded": True})
        with pytest.raises(ModelUnavailable, match="tells one token alone"):
            tops(session, 5)
        assert server.asked >= before + 4
        assert_same(session.generate(QUESTIONS[:1], "takeover", DECODE, ENTROPY), whole("takeover")[:1])


def test_tokens_without_ids_are_never_told() -> None:
    """A text that names several ids, or none, comes as -1 from a server that tells tokens as text."""
    assert ranked({-1: -2.0, 3: -0.5, 5: -3.0, 6: -4.0}, Query((0,), top=2)) == ((3, -0.5), (5, -3.0))
    with pytest.raises(Undecided, match="has no id of its own"):
        ranked({-1: -0.5, 3: -0.6}, Query((0,), top=2))


@pytest.mark.parametrize("kind", ["llama-server", "openai"])
def test_a_bound_is_never_told_for_an_exact_log_probability(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks: some of the ids are told, and the others would be just below the least of them."""
    transport: Any = SimpleNamespace(url="http://here")
    server = LlamaServer(transport, "m", 1_000_000, 0) if kind == "llama-server" else OpenAI(transport, "m", {}, None)

    async def complete(*asked: Any) -> dict[int, float]:
        return {1: -0.5, 2: -1.0}

    monkeypatch.setattr(server, "complete", complete)
    with pytest.raises(S2TError, match="exact log-probability"):
        asyncio.run(server.look(Query((0,), 1, (1, 9))))
    seen = asyncio.run(server.look(Query((0,), 1, (1, 9), best_only=True)))
    assert seen.asked[1] == -0.5 and seen.asked[9] < -1.0


def test_a_kind_that_waits_is_not_overtaken_by_more_of_the_other() -> None:
    turns, begun = Turns(), []

    async def ask(kind: str) -> None:
        async with turns.take(kind):
            begun.append(kind)
            for _ in range(9):
                await asyncio.sleep(0)

    async def go() -> None:
        tasks = []
        for kind in "aba":
            tasks.append(asyncio.create_task(ask(kind)))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(go())
    assert begun == ["a", "b", "a"]


@pytest.mark.parametrize("seed", range(5))
def test_one_kind_is_under_way_at_a_time(seed: int) -> None:
    turns, order = Turns(), random.Random(seed)
    under_way: list[str] = []
    served: Counter[str] = Counter()

    async def ask(kind: str, ticks: int) -> None:
        async with turns.take(kind):
            under_way.append(kind)
            assert set(under_way) == {kind}
            try:
                for _ in range(ticks):
                    await asyncio.sleep(0)
                served[kind] += 1
            finally:
                under_way.remove(kind)

    async def go() -> int:
        tasks = []
        for _ in range(300):
            tasks.append(asyncio.create_task(ask(order.choice("ab"), order.randrange(4))))
            if order.random() < 0.2:
                order.choice(tasks[-6:]).cancel()
            if order.random() < 0.5:
                await asyncio.sleep(0)
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert not [each for each in ended if isinstance(each, Exception)]
        return sum(isinstance(each, asyncio.CancelledError) for each in ended)

    cancelled = asyncio.run(go())
    assert served.total() + cancelled == 300 and min(served["a"], served["b"]) > 50 and cancelled > 10
    assert not turns.under_way and not turns.waiting


def test_a_transport_can_be_made_and_dropped() -> None:
    """Its thread ends with it, once it is collected."""
    before = threading.active_count()
    for _ in range(3):
        transport = Transport("http://127.0.0.1:9")
        assert transport.run(transport.peek("/v1/models")) is None
        del transport
    gc.collect()
    limit = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < limit:
        time.sleep(0.05)
    assert threading.active_count() <= before
