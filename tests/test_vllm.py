"""Our plug-in for vLLM over a stand-in for its engine: the decisions are those of our own runtime.

The real engine is tested by `make test-engines`.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fake_vllm import FakeEngine, vllm_modules
from select_to_think.cli.data import pair_items
from select_to_think.cli.options import flatten
from select_to_think.cli.serve import serve
from select_to_think.config import DecodeConfig, MethodSettings, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.serving.settings import AccessConfig
from select_to_think.session import Session
from select_to_think.structures import Generation, S2TError
from select_to_think.training.export import export

SMALL = RuntimeConfig(kv_memory_gib=0.05)
LLM = str(Path(__file__).parents[1] / "src/select_to_think/pairs/demo/llm")
DECODE = DecodeConfig(max_new_tokens=40, max_batch=3)
OFTEN = SelectConfig(trigger="entropy", trigger_budget=0.2)
QUESTIONS = [item.question for item in pair_items(PairConfig(), "validation", 2)]
ROOM = {"model_config": {"max_model_len": 1024}}


@pytest.fixture(scope="module")
def ours() -> Iterator[SimpleNamespace]:
    """The modules of the plug-in."""
    with vllm_modules():
        from select_to_think.integrations.vllm import marks, plugin, processor, session

        yield SimpleNamespace(marks=marks, plugin=plugin, processor=processor.PauseProcessor, session=session)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = Thread(target=made.run_forever, daemon=True)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled pair, exported with each scorer that vLLM can run."""
    root = tmp_path_factory.mktemp("exported")
    for mode in ("coupled", "proposer"):
        export(Session(runtime=SMALL), "s2t-local", SelectConfig(scorer_mode=mode), "vllm", root / mode)  # type: ignore[arg-type]
    export(Session(runtime=SMALL), "s2t-local", SelectConfig(scorer_mode="coupled"), "merged", root / "merged")
    export(Session(runtime=SMALL), "distill", SelectConfig(), "vllm", root / "distill")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def in_engine(ours: SimpleNamespace, loop: asyncio.AbstractEventLoop, folders: dict[str, Path]) -> Any:
    def make(mode: str, slots: int = 0, **pair: Any) -> Session:
        engine = FakeEngine(folders[mode], ours.processor, slots, **ROOM)
        made: Session = ours.session.VllmSession(engine, loop, PairConfig(**pair), SMALL)
        return made

    return make


def beside(folder: Path, **pair: Any) -> Session:
    """The same pair in our own runtime."""
    return Session.load(PairConfig(slm=str(folder), **pair), SMALL)


def assert_same(found: list[Generation], expected: list[Generation]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.tokens, one.text, one.finish_reason) == (other.tokens, other.text, other.finish_reason)
        for step, same in zip(one.steps, other.steps, strict=True):
            assert (step.fired, step.candidates, step.chooser) == (same.fired, same.candidates, same.chooser)
            assert step.alternatives == same.alternatives and step.greedy_token == same.greedy_token
            assert step.logprob == pytest.approx(same.logprob, abs=1e-4)
            assert step.candidate_logprobs == pytest.approx(same.candidate_logprobs, abs=1e-4)
            assert same_scores(step.scores, same.scores)
            if step.fired:
                assert step.statistic == pytest.approx(same.statistic, abs=1e-4)


def same_scores(found: Sequence[float], expected: Sequence[float]) -> bool:
    """Whether scores are the same, where they were asked for; the others could not win."""
    asked = [place for place, score in enumerate(found) if score > -math.inf]
    most = max((expected[place] for place in asked), default=0.0)
    return [found[place] for place in asked] == pytest.approx([expected[place] for place in asked], abs=1e-4) and all(
        score <= most for score in expected
    )


@pytest.mark.parametrize("slots", [0, 3])
@pytest.mark.parametrize("trigger", ["entropy", "margin"])
@pytest.mark.parametrize("mode", ["coupled", "proposer"])
def test_s2t_local_decides_as_our_runtime(
    mode: str, trigger: str, slots: int, in_engine: Any, folders: dict[str, Path]
) -> None:
    select = replace(OFTEN, trigger=trigger)
    found = in_engine(mode, slots).generate(QUESTIONS, "s2t-local", DECODE, select)
    assert sum(answer.fired_count for answer in found) > 5
    assert_same(found, beside(folders[mode]).generate(QUESTIONS, "s2t-local", DECODE, select))


def test_a_merged_scorer_needs_no_adapter(in_engine: Any, folders: dict[str, Path]) -> None:
    session = in_engine("merged")
    session.engine.vllm_config.lora_config = None
    found = session.generate(QUESTIONS, "s2t-local", DECODE, OFTEN)
    assert not session.engine.adapted
    assert_same(found, beside(folders["coupled"]).generate(QUESTIONS, "s2t-local", DECODE, OFTEN))


@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_never_and_always(budget: float, in_engine: Any, folders: dict[str, Path]) -> None:
    select, decode = replace(OFTEN, trigger_budget=budget), replace(DECODE, max_new_tokens=8)
    found = in_engine("coupled").generate(QUESTIONS, "s2t-local", decode, select)
    assert all(step.fired == (budget == 1.0) for answer in found for step in answer.steps)
    assert_same(found, beside(folders["coupled"]).generate(QUESTIONS, "s2t-local", decode, select))


@pytest.mark.parametrize("slots", [0, 3])
def test_a_warm_up_holds_behind_what_had_begun(slots: int, in_engine: Any, folders: dict[str, Path]) -> None:
    select = replace(OFTEN, trigger_budget=0.9, warm_up_steps=3)
    found = in_engine("proposer", slots).generate(QUESTIONS, "s2t-local", DECODE, select)
    assert any(answer.steps[3].fired for answer in found)
    assert_same(found, beside(folders["proposer"]).generate(QUESTIONS, "s2t-local", DECODE, select))


@pytest.mark.parametrize(("method", "folder"), [("greedy", "proposer"), ("distill", "distill")])
def test_methods_without_a_trigger(method: str, folder: str, in_engine: Any, folders: dict[str, Path]) -> None:
    found = in_engine(folder).generate(QUESTIONS, method, DECODE)
    assert_same(found, beside(folders[folder]).generate(QUESTIONS, method, DECODE))


@pytest.mark.parametrize("method", ["s2t", "takeover"])
def test_the_llm_selects_as_in_our_runtime(method: str, in_engine: Any, folders: dict[str, Path]) -> None:
    found = in_engine("proposer", llm=LLM).generate(QUESTIONS, method, DECODE, OFTEN)
    assert sum(step.chooser == "llm" for answer in found for step in answer.steps) > 3
    assert_same(found, beside(folders["proposer"], llm=LLM).generate(QUESTIONS, method, DECODE, OFTEN))


def test_stop_strings_alternatives_and_a_bias(in_engine: Any, folders: dict[str, Path]) -> None:
    settings = MethodSettings(DECODE, OFTEN, stop=(" The",), alternatives=5, logit_bias=((1095, -20.0),))

    def answered(session: Session) -> list[Generation]:
        found = dict(session.results(session.runs(QUESTIONS, "s2t-local", settings), DECODE))
        return [found[place] for place in range(len(QUESTIONS))]

    found = answered(in_engine("proposer"))
    assert any(answer.finish_reason == "stop" and answer.steps[-1].token != 2 for answer in found)
    assert_same(found, answered(beside(folders["proposer"])))


def test_candidates_that_another_client_took_away_are_missed(in_engine: Any, folders: dict[str, Path]) -> None:
    """vLLM tells one token of a step in which anybody asks for given ids: no decision is made of that."""
    session, asked = in_engine("coupled"), (QUESTIONS[:1], "s2t-local", DecodeConfig(max_new_tokens=16), OFTEN)
    expected = beside(folders["coupled"]).generate(*asked)
    assert_same(session.generate(*asked), expected)
    steps, requests = session.engine.steps, len(session.engine.requests)
    assert expected[0].fired_count and requests > 4  # of which some score
    for step in range(steps + 1, 2 * steps + 1):
        session.engine.steps, session.engine.crowded = steps, {step}
        with pytest.raises(S2TError, match="vLLM told one token of a step alone"):
            session.generate(*asked)
    session.engine.crowded = ()
    assert_same(session.generate(*asked), expected)


def test_what_an_answer_costs_is_counted(in_engine: Any) -> None:
    session = in_engine("coupled")
    (answer,) = session.generate(QUESTIONS[:1], "greedy", DECODE)
    asked = len(session.prompt(QUESTIONS[0], 1, with_llm=False))
    assert answer.counts.slm_forwards == len(answer.tokens)
    assert answer.counts.slm_tokens_processed + answer.counts.slm_tokens_cached == asked + len(answer.tokens) - 1


@pytest.mark.parametrize(("token_seconds", "written"), [(0.0, True), (0.02, False)])  # the next piece, when he leaves
def test_who_stops_reading_is_aborted(in_engine: Any, token_seconds: float, written: bool) -> None:
    session = in_engine("coupled")
    session.engine.token_seconds = token_seconds
    events = session.events(session.runs(QUESTIONS[:1], "greedy", MethodSettings(DECODE)), 1)
    next(events)
    (backend,) = session.backends.values()
    if written:
        wait([sent.future for sent in backend.sent.values()])
    events.close()
    for _ in range(200):
        session.streams.sweep()
        if session.engine.aborted:
            break
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), session.loop).result()
    assert session.engine.aborted == session.engine.requests[:1]


@pytest.mark.parametrize(
    ("method", "select", "pair", "said"),
    [
        ("s2t-local", replace(OFTEN, trigger="learned"), {}, "the learned trigger needs more than the logits"),
        ("s2t-local", replace(OFTEN, trigger="random"), {}, "choose entropy, margin"),
        ("s2t", replace(OFTEN, trigger="kl"), {"llm": LLM}, "the kl trigger needs our own runtime"),
        ("s2t-local", replace(OFTEN, trigger="kl"), {"llm": LLM}, "runs without an LLM"),
        ("s2t-local", replace(OFTEN, candidates=20), {}, "--max-logprobs 21"),
        ("sample", OFTEN, {}, "sample does not run in vLLM"),
        ("mentor-free", OFTEN, {"llm": LLM}, "mentor-free does not run in vLLM"),
        ("llm", OFTEN, {"llm": LLM}, "llm does not run in vLLM"),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(
    method: str, select: SelectConfig, pair: dict[str, str], said: str, in_engine: Any, folders: dict[str, Path]
) -> None:
    trained = {"trigger_head": str(folders["proposer"].parents[0] / "none")} if select.trigger == "learned" else {}
    with pytest.raises(S2TError, match=said):
        in_engine("proposer", **pair, **trained).decoder(method, MethodSettings(DECODE, select))


def test_an_activated_scorer_is_refused_with_the_reason(in_engine: Any) -> None:
    shipped = Session(runtime=SMALL).scorer(SelectConfig()).path
    session = in_engine("proposer", scorer=str(shipped))
    session.slm.__dict__["fingerprint"] = Session(runtime=SMALL).slm.fingerprint
    with pytest.raises(S2TError, match=r"keys and values .* export a coupled or a proposer one"):
        session.decoder("s2t-local", MethodSettings(DECODE, OFTEN))


@pytest.mark.parametrize("own", [5, "write", [], [1], ["entropy", "x"], ["entropy", 0.1, None], ["write", 0.1, 0, 1]])
def test_a_wish_that_is_none_is_refused_before_it_reaches_the_engine(own: Any, ours: SimpleNamespace) -> None:
    for good in (None, {}, {"s2t": ["write"]}, {"s2t": ["entropy", 0.5, 3]}, {"other": own}):
        ours.processor.validate_params(SimpleNamespace(extra_args=good))
    with pytest.raises(ValueError, match="what our server writes"):
        ours.processor.validate_params(SimpleNamespace(extra_args={"s2t": own}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_config": {"logprobs_mode": "raw_logprobs"}}, "--logprobs-mode processed_logprobs"),
        ({"model_config": {"logits_processors": None}}, "--logits-processors"),
        ({"lora_config": None}, "--enable-lora"),
        ({"lora_config": SimpleNamespace(max_loras=1)}, "--max-loras 2"),
        ({"speculative_config": SimpleNamespace()}, "without --speculative-config"),
    ],
)
def test_an_engine_that_was_started_otherwise_is_refused(
    settings: dict[str, Any], said: str, ours: SimpleNamespace, loop: Any, folders: dict[str, Path]
) -> None:
    engine = FakeEngine(folders["coupled"], ours.processor)
    for name, value in settings.items():
        config = engine.vllm_config
        changed = SimpleNamespace(**{**vars(config.model_config), **value}) if name == "model_config" else value
        setattr(config, name, changed)
    with pytest.raises(S2TError, match=said):
        ours.session.VllmSession(engine, loop, PairConfig())


@pytest.mark.parametrize("statistic", [0.0, 0.37, 1.0, 11.9])
def test_a_pause_tells_its_statistic_and_hides_nothing(statistic: float, ours: SimpleNamespace) -> None:
    import torch

    logits = torch.randn(50) * 3
    expected = logits.log_softmax(-1).sort(descending=True).values[:8]
    paused = torch.cat([logits, logits.max()[None] + ours.marks.lead(statistic)]).log_softmax(-1)
    assert int(paused.argmax()) == 50
    told, found = ours.marks.unpaused(float(paused[50]), paused[:50].sort(descending=True).values[:8].tolist())
    assert told == pytest.approx(expected.tolist(), abs=1e-5) and found == pytest.approx(statistic, abs=1e-4)


@pytest.fixture
def served(ours: SimpleNamespace, folders: dict[str, Path]) -> Iterator[TestClient]:
    """vLLM's application with our plug-in, and a key."""
    app, plugin = FastAPI(), ours.plugin.Plugin()
    engine = FakeEngine(folders["coupled"], ours.processor, additional_config={"s2t": {"trigger": "entropy"}}, **ROOM)
    plugin.attach_router(app)
    app.add_api_route("/v1/models", lambda: "vLLM's own")
    args = SimpleNamespace(host=None, api_key=["secret"])
    with TestClient(app, headers={"Authorization": "Bearer secret"}) as client:
        assert client.portal is not None
        client.portal.call(plugin.init_state, engine, app.state, args)
        yield client


def test_the_plug_in_answers_as_our_server_does(served: TestClient, folders: dict[str, Path]) -> None:
    asked = {"messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 40, "s2t": {"trace": True}}
    answer = served.post("/s2t/v1/chat/completions", json={**asked, "model": "demo/slm:s2t-local"}).json()
    (expected,) = beside(folders["coupled"]).generate(
        QUESTIONS[:1], "s2t-local", DECODE, replace(OFTEN, trigger_budget=0.03)
    )
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == expected.text and choice["s2t"]["trigger"] == "entropy"
    assert [step["token"] for step in choice["s2t"]["steps"]] == list(expected.tokens)
    assert [step["fired"] for step in choice["s2t"]["steps"]] == [step.fired for step in expected.steps]
    with served.stream("POST", "/s2t/v1/chat/completions", json={**asked, "stream": True}) as stream:
        chunks = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in chunks) == expected.text
    assert len(chunks) > 3


def test_the_plug_in_leaves_vllms_addresses_and_asks_for_its_key(served: TestClient) -> None:
    assert served.get("/v1/models").json() == "vLLM's own"
    ids = [model["id"] for model in served.get("/s2t/v1/models").json()["data"]]
    assert ids == ["demo/slm", "demo/slm:greedy", "demo/slm:s2t-local"]
    assert served.get("/s2t/").status_code == 200
    assert served.get("/s2t/v1/models", headers={"Authorization": "Bearer other"}).status_code == 401


def test_settings_of_the_plug_in_are_checked(ours: SimpleNamespace) -> None:
    def made(**settings: Any) -> Any:
        engine = SimpleNamespace(vllm_config=SimpleNamespace(additional_config={"s2t": settings}))
        return asyncio.run(ours.plugin.Plugin().init_state(engine, None, None))

    with pytest.raises(S2TError, match="did you mean 'trigger_budget'"):
        made(triger_budget=0.1)
    with pytest.raises(S2TError, match="trigger_budget"):
        made(trigger_budget=2.0)
    for name in ("slm", "max_batch", "shutdown_timeout_s"):
        with pytest.raises(S2TError, match=f"unknown setting '{name}'"):
            made(**{name: "1"})


def test_keys_of_a_file_hold_in_the_plug_in(ours: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("topsecret\n")
    keys = ours.plugin.keys_of(SimpleNamespace(api_key=None), AccessConfig(api_key_file=tmp_path / "keys"))
    assert keys.accept("Bearer topsecret") and not keys.accept("")
    with pytest.raises(S2TError, match="nowhere"):
        ours.plugin.keys_of(SimpleNamespace(api_key=None), AccessConfig(api_key_file=tmp_path / "nowhere"))


def test_settings_of_the_plug_in_default_to_those_of_the_server(
    ours: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Any] = []

    def catalogue(session: Any, server: Any, settings: MethodSettings) -> None:
        used.extend([server, settings.decode])
        raise S2TError("enough")

    monkeypatch.setattr(ours.plugin, "VllmSession", lambda client, loop, pair, runtime: used.extend([pair, runtime]))
    monkeypatch.setattr(ours.plugin, "Catalogue", catalogue)
    config = SimpleNamespace(additional_config={}, scheduler_config=SimpleNamespace(max_num_seqs=4))
    with pytest.raises(S2TError, match="enough"):
        asyncio.run(ours.plugin.Plugin().init_state(SimpleNamespace(vllm_config=config), None, None))
    offered = {parameter.name: parameter for parameter in flatten(serve)[1]}
    found = {name: value for each in used for name, value in vars(each).items() if name in offered}
    assert {"max_wait_steps", "prefix_cache_tokens", "on_llm_failure", "port", "pair"} <= found.keys()
    assert found == {name: offered[name].default for name in found}
