"""On a GPU, as far as a CPU can tell: everything lies where it is used, and the host waits once a forward.

The device is pretended (`pretended_cuda.py`). Its own tests come first.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from drive import SMALL, backends_of, results_of
from pretended_cuda import CUDA, PretendedCuda
from select_to_think.artefacts import Artefacts
from select_to_think.cli.data import pair_items
from select_to_think.config import (
    DecodeConfig,
    MethodSettings,
    PairConfig,
    RuntimeConfig,
    ScorerMode,
    SelectConfig,
    ServeConfig,
)
from select_to_think.contexts.graphs import Graphs
from select_to_think.contexts.layout import Step
from select_to_think.evaluation.rollouts import labelled_rollouts
from select_to_think.evaluation.runner import EvalSettings, evaluate
from select_to_think.models.loading import LoadedModel
from select_to_think.pairs.problems import load_split
from select_to_think.policies.base import Limits
from select_to_think.policies.block_verified import BlockVerified
from select_to_think.policies.sample import Sample
from select_to_think.selectors.llm import LLMSelector
from select_to_think.serving.catalogue import Catalogue
from select_to_think.session import Session
from select_to_think.training.groups import collate, make_examples
from select_to_think.triggers.kl import KL
from test_packed import SCORERS, module, total
from tiny import ARCHITECTURES, tiny_model
from training_fixtures import make_trajectories

RUNTIME = RuntimeConfig(kv_memory_gib=0.1)
DECODE = DecodeConfig(max_new_tokens=24)
LIMITS = Limits(frozenset({2}), 24)
METHODS = {
    "greedy": ("greedy", SelectConfig()),
    "sample": ("sample", SelectConfig()),
    "llm": ("llm", SelectConfig()),
    "distill": ("distill", SelectConfig()),
    "maj@2": ("maj@2", SelectConfig()),
    "takeover": ("takeover", SelectConfig(trigger="entropy")),
    "s2t-kl": ("s2t", SelectConfig(trigger="kl")),
    "s2t-learned": ("s2t", SelectConfig(trigger="learned")),
    "activated": ("s2t-local", SelectConfig(trigger_budget=0.2)),
    "proposer": ("s2t-local", SelectConfig(trigger_budget=0.2, scorer_mode="proposer")),
    "coupled": ("s2t-local", SelectConfig(trigger_budget=0.2, scorer_mode="coupled")),
    "mentor-free": ("mentor-free", SelectConfig()),
    "mentor-mlp": ("mentor-mlp", SelectConfig()),
}


def on_device() -> torch.Tensor:
    return torch.arange(3.0, device="cuda")


@pytest.mark.parametrize(
    "use",
    [
        lambda: on_device() + torch.ones(3),
        lambda: torch.cat([on_device(), torch.ones(3)]),
        lambda: on_device().index_select(0, torch.tensor([0, 1])),
        lambda: torch.ones(3)[on_device().long()],
        lambda: torch.nn.Linear(3, 3)(on_device()),
        lambda: torch.nn.Linear(3, 3).to("cuda")(torch.ones(3)),
        lambda: torch.nn.functional.embedding(torch.tensor([1]), on_device()[:, None]),
        lambda: on_device().numpy(),
        lambda: np.asarray(on_device()),
    ],
)
def test_the_pretended_device_refuses_what_lies_elsewhere(use: Callable[[], Any]) -> None:
    with PretendedCuda(), pytest.raises((AssertionError, TypeError), match=r"of the host|can't convert"):
        use()


def test_the_pretended_device_is_waited_for() -> None:
    with PretendedCuda() as device:
        found = (on_device() + 1).to("cpu", non_blocking=True)
        assert found.isnan().all() and not device.waits
        torch.cuda.synchronize()
        assert found.tolist() == [1, 2, 3] and device.waits == {"synchronize": 1}
        assert on_device().sum().item() == 3 and on_device()[on_device() > 0].shape == (2,)
        assert device.waits == {"synchronize": 1, "item": 1, "__getitem__": 1}
        assert not device.blocking.total()
        moved = torch.ones(3).pin_memory().to("cuda", non_blocking=True)
        assert not device.blocking.total() and moved.device.type == (moved * 2).device.type == "cuda"
        torch.ones(3).to("cuda", non_blocking=True)
        torch.tensor([1], device="cuda")
        assert device.blocking["to"] == device.blocking["tensor"] == 1
        assert moved[torch.tensor([0, 1])].shape == moved[[0, 1]].shape and device.blocking["__getitem__"] == 2


def test_a_pretended_graph_reads_and_writes_where_its_first_run_did() -> None:
    with PretendedCuda() as device, torch.cuda.device(CUDA):
        given = on_device()
        graph, other = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = (given * 2)[1:] + 1
        with torch.cuda.graph(other, pool=graph.pool()):
            found_there = given + 3
        given.copy_(on_device() + 5)
        assert found.cpu().tolist() == [3, 5]
        graph.replay()
        assert found.cpu().tolist() == [13, 15] and device.graphs == 2
        assert found_there.isnan().all(), "the memory is one"
        other.replay()
        assert found_there.cpu().tolist() == [8, 9, 10] and given.cpu().tolist() == [5, 6, 7]
        with pytest.raises(AssertionError, match="captured"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            given.sum().item()


def test_a_pretended_device_is_not_the_current_one() -> None:
    with PretendedCuda():
        found = (on_device() + 1).to("cpu", non_blocking=True)
        torch.cuda.current_stream().synchronize()
        assert found.isnan().all()
        torch.cuda.current_stream(on_device().device).synchronize()
        assert not found.isnan().any()
        with pytest.raises(AssertionError, match="another device"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            pass


@pytest.fixture(scope="module")
def questions() -> list[str]:
    return [problem.question for problem in load_split("validation", limit_per_domain=1)]


@pytest.fixture(scope="module")
def beside() -> Session:
    return Session(runtime=RUNTIME)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "compile"])
def there(request: pytest.FixtureRequest) -> tuple[PretendedCuda, Session, bool]:
    with PretendedCuda() as device:
        runtime = RuntimeConfig(kv_memory_gib=0.1, compile=request.param)
        session = Session(PairConfig(device="cuda"), runtime=runtime)
    return device, session, request.param


@pytest.mark.parametrize("case", METHODS)
def test_answers_are_those_on_the_cpu_with_one_wait_a_forward(
    there: tuple[PretendedCuda, Session, bool], beside: Session, questions: list[str], case: str
) -> None:
    (device, session, compiled), (method, select) = there, METHODS[case]
    expected = beside.generate(questions, method, DECODE, select)
    with device:
        assert session.slm.device.type == "cuda" and session.slm.model.dtype == torch.float32
        session.generate(questions[:1], method, DECODE, select)  # loads what the method needs
        device.waits.clear(), device.blocking.clear()
        before = sum(backend.forwards for backend in session.backends.values())  # type: ignore[attr-defined]
        found = session.generate(questions, method, DECODE, select)
        forwards = sum(backend.forwards for backend in session.backends.values()) - before  # type: ignore[attr-defined]
    assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]
    assert device.waits == {"synchronize": forwards} and not device.blocking.total()
    assert bool(device.graphs) == compiled


@pytest.mark.parametrize(
    ("method", "mode"),
    [("greedy", "activated"), ("s2t-local", "activated"), ("s2t-local", "coupled"), ("distill", "activated")],
)
def test_most_steps_of_ragged_rows_are_replayed(
    method: str, mode: ScorerMode, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their extents are of several sizes; an adapter acts on all of them."""
    replayed, run = [], Graphs.run

    def watched(graphs: Graphs, step: Step) -> torch.Tensor:
        replayed.append(len(step.groups))
        return run(graphs, step)

    monkeypatch.setattr(Graphs, "run", watched)
    with PretendedCuda():
        session = Session(PairConfig(device="cuda"), runtime=replace(RUNTIME, compile=True))
        session.generate(questions, method, DECODE, SelectConfig(trigger_budget=0.03, scorer_mode=mode))
    assert len(replayed) > 0.75 * cast(Any, session.backends["slm"]).forwards and max(replayed) > 1


class Calls(TorchDispatchMode):
    """Counts what would be started on a device: every operation but views."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += not any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns)
        return func(*args, **(kwargs or {}))


def calls_a_step(answer: Callable[[int], Any], short: int = 8, long: int = 24) -> float:
    """Operations for each further token of one answer."""
    answer(short)  # loads what it needs
    numbers = []
    for tokens in (short, long):
        with Calls() as calls, torch.inference_mode():
            answer(tokens)
        numbers.append(calls.number)
    return (numbers[1] - numbers[0]) / (long - short)


def test_a_step_starts_hardly_more_than_one_of_generate(questions: list[str]) -> None:
    """A GPU decodes few rows as fast as operations, and copies, are started."""
    with PretendedCuda():
        plain, greedy, local = operations(Session(PairConfig(device="cuda"), runtime=RUNTIME), questions[0])
    print(f"operations a step: generate {plain:.1f}, greedy {greedy:.1f}, s2t-local {local:.1f}")
    assert greedy < 1.05 * plain
    assert local < 1.2 * plain


def operations(session: Session, question: str) -> tuple[float, float, float]:
    """A step's, of `generate`, `greedy` and `s2t-local`."""
    model = session.slm.model
    ids = torch.tensor([session.prompt(question, 64, with_llm=False)]).to(model.device)
    settings: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
    plain = calls_a_step(lambda n: model.generate(ids, max_new_tokens=n, eos_token_id=None, **settings))

    def ours(method: str) -> float:
        select = SelectConfig(trigger_budget=0.03)

        def answer(n: int) -> None:
            (written,) = session.generate([question], method, DecodeConfig(max_new_tokens=n), select)
            assert len(written.tokens) == n

        return calls_a_step(answer)

    return plain, ours("greedy"), ours("s2t-local")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_answers_as_on_the_cpu(arch: str) -> None:
    prompts = [list(range(3, 3 + n)) for n in (3, 17, 1, 30, 9)]
    found = []
    for place in ("cpu", "cuda"):
        with PretendedCuda() as device:
            models = {"slm": tiny_model(arch).to(place), "llm": tiny_model(arch, seed=1, layers=3).to(place)}
            backends = backends_of(models, forbidden=(0, 1), config=SMALL)
            device.waits.clear(), device.blocking.clear()
            for policy in (BlockVerified(LIMITS, KL.at(0.08), LLMSelector(), 8), Sample(LIMITS, 1.0, 1.0, 0, 0.0)):
                runs = (policy.run(prompt, f"seed/{i}") for i, prompt in enumerate(prompts))
                found.append([result.tokens for result in results_of(backends, runs)])
            forwards = sum(backend.forwards for backend in backends.values())
            assert device.waits == ({"synchronize": forwards} if place == "cuda" else {})
            assert not device.blocking.total()
    assert found[:2] == found[2:]


def holders(session: Session) -> list[str]:
    """Models whose keys and values have memory."""
    return [name for name, backend in session.backends.items() if "memory" in vars(backend)]


@pytest.mark.parametrize("use", ["generate", "eval", "serve", "label"])
def test_keys_and_values_make_room_for_weights(
    use: str, beside: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take a share of what is free, on a device at once: an LLM that came later would find no room."""
    items, session, loaded = pair_items(PairConfig(), "test", 3), Session(), []
    load = Artefacts._load

    def watched(self: Session, role: str, given: str | None) -> LoadedModel:
        if self is session:
            loaded.append((role, holders(self)))
        return load(self, role, given)

    monkeypatch.setattr(Artefacts, "_load", watched)
    if use == "serve":
        Catalogue(session, ServeConfig(), MethodSettings())
    elif use == "eval":
        evaluate(session, items, ["s2t-local", "s2t"], EvalSettings(DECODE), out=tmp_path / "out")
    elif use == "label":
        decode = DecodeConfig(max_new_tokens=64, max_batch=2)  # rows are at work while others are labelled
        assert list(labelled_rollouts(session, items, "greedy", decode, SelectConfig(), with_llm=True))
    else:
        questions = [item.question for item in items]
        for method in ("s2t-local", "s2t", "s2t-local"):
            found, expected = (each.generate(questions, method, DECODE) for each in (session, beside))
            assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]
            assert holders(session) == (["slm", "llm"] if loaded[1:] else ["slm"])
    assert sorted(loaded) == [("llm", []), ("slm", [])]


@pytest.mark.parametrize("compiled", [False, True])
def test_memory_that_is_taken_anew_serves(compiled: bool, beside: Session) -> None:
    question = [problem.question for problem in load_split("validation", limit_per_domain=1)]
    (expected, *_) = beside.generate(question, "s2t-local", DECODE)
    with PretendedCuda() as device:
        session = Session(PairConfig(device="cuda"), runtime=replace(RUNTIME, compile=compiled))
        for _ in range(2):
            graphs = device.graphs
            assert session.generate(question, "s2t-local", DECODE)[0].tokens == expected.tokens
            assert session.slm.device.type == "cuda" and (device.graphs > graphs) == compiled
            backend: Any = session.backends["slm"]
            memory = weakref.ref(backend.memory)
            session.give_back()
            gc.collect()
            assert memory() is None


def test_keys_and_values_of_rows_at_work_stay(beside: Session) -> None:
    questions, session = [item.question for item in pair_items(PairConfig(), "test", 3)], Session()
    answers = session.stream(questions, "s2t-local", DecodeConfig(max_new_tokens=64))
    first, memory = next(answers), vars(session.backends["slm"])["memory"]
    assert session.streams.runtime.busy and session.llm and vars(session.backends["slm"])["memory"] is memory
    found = dict([first, *answers])
    expected = beside.generate(questions, "s2t-local", DecodeConfig(max_new_tokens=64))
    assert [found[i].tokens for i in range(len(found))] == [answer.tokens for answer in expected]


@pytest.mark.parametrize(("mode", "score"), SCORERS)
def test_training_finds_the_gradients_of_the_cpu(mode: str, score: str) -> None:
    found = []
    for place in ("cpu", "cuda"):
        with PretendedCuda():
            trained = module("qwen2", mode=mode, score=score).float().to(place)
            batch = collate(make_examples(make_trajectories(3)), whole=trained.whole)
            with trained.lent():
                total(trained, {name: tensor.to(place) for name, tensor in batch.items()}).backward()
                weights = [(name, each.grad) for name, each in trained.named_parameters() if each.grad is not None]
                found.append({name: gradient.to("cpu").numpy() for name, gradient in weights})
    assert len(found[0]) > 2 and found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        np.testing.assert_allclose(gradient, found[1][name], atol=1e-5, rtol=1e-4)
