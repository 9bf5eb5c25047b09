"""The runtime: mixed steps, requests that come and go, failures that stay where they happened."""

from __future__ import annotations

import asyncio
import copy
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from drive import SMALL, assert_closed, backends_of, free_slots, results_of
from reference import next_logprobs
from select_to_think.config import RuntimeConfig
from select_to_think.contexts.elsewhere import BackendElsewhere
from select_to_think.contexts.memory import SMALLEST_EXTENT, Extents
from select_to_think.contexts.protocol import Ask
from select_to_think.contexts.transformers_backend import TransformersBackend
from select_to_think.models.adapter import Adapter, adapted_paths
from select_to_think.models.detokenizer import StopStrings
from select_to_think.policies.base import Limits
from select_to_think.policies.block_verified import BlockVerified
from select_to_think.policies.greedy import Greedy
from select_to_think.policies.majority import MajorityVote
from select_to_think.policies.mentor import Mentor
from select_to_think.policies.sample import Sample
from select_to_think.policies.select import Select
from select_to_think.runs import Committed, Event, Failed, Finished, Run
from select_to_think.runtime import Runtime
from select_to_think.selectors.llm import LLMSelector
from select_to_think.selectors.scorer import ScorerSelector
from select_to_think.structures import (
    Branch,
    Collect,
    Extend,
    Fork,
    Generation,
    Join,
    ModelUnavailable,
    Observation,
    Observe,
    Role,
    S2TError,
    Submit,
)
from select_to_think.triggers.entropy import ENTROPY
from select_to_think.triggers.kl import KL
from select_to_think.triggers.margin import MARGIN
from select_to_think.triggers.random import coin
from select_to_think.verifiers.coin import CoinVerifier
from test_contexts import answers, extend, spread
from test_mentor import FREE, WORDS
from tiny import tiny_model, tiny_tokenizer

LIMITS = Limits(frozenset({2}), 24)
PROMPTS = [list(range(3, 3 + n)) for n in (3, 17, 1, 30, 9)]
LONG = [3 + 7 * n % 45 for n in range(200)]
WHOLE = Observe(top_k=64)
POISON = 50  # a token whose embedding is not a number, where a test says so
SLM, LLM = Role("slm"), Role("llm")


def adapter(model: Any, seed: int) -> Adapter:
    """A random LoRA of rank 2 on all linear layers."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for path in adapted_paths(model):
        outputs, inputs = model.get_submodule(path).weight.shape
        shapes = (inputs, 2), (2, outputs)
        factors[path] = tuple(0.3 * torch.randn(shape, generator=generator) for shape in shapes)
    return Adapter(factors, 0.7)  # type: ignore[arg-type]


def merged(model: Any, lora: Adapter) -> Any:
    """A copy of a model with a LoRA in its weights."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for path, (down, up) in lora.layers.items():
            twin.get_submodule(path).weight += lora.scale * (down @ up).T
    return twin


def behind(model: Any, adapted: Any, prefix: Sequence[int], leaf: Sequence[int]) -> torch.Tensor:
    """Log-probabilities behind `leaf` as `adapted` reads it, on the keys and values that `model` made of `prefix`."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.tensor([prefix]), past_key_values=cache, use_cache=True)
        logits = adapted(torch.tensor([leaf]), past_key_values=cache, use_cache=True).logits
    return logits[0, -1].log_softmax(-1)


class Watched(TransformersBackend):
    """Notes the widths of the segments of each forward, and whose they were."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.widths: list[list[int]] = []
        self.taking_part: list[list[Any]] = []

    def forward(self, plan: Any) -> None:
        self.widths.append([segment.width for segment in plan.segments])
        self.taking_part.append(list(plan.contexts))
        super().forward(plan)


@pytest.mark.parametrize("arch", ["qwen2", "gemma3", "mistral"])
def test_a_mixed_step_is_separate_forwards(arch: str) -> None:
    """A prompt in pieces, single tokens, base leaves and the leaves and contexts of two adapters, in one forward."""
    model = tiny_model(arch)
    loras = {name: adapter(model, seed) for seed, name in enumerate("ab")}
    plain = {None: copy.deepcopy(model), **{name: merged(model, lora) for name, lora in loras.items()}}
    backend = Watched(model, config=replace(SMALL, max_step_tokens=96))
    for name, lora in loras.items():
        backend.add_adapter(name, lora)
    leaves = ((7,), (8, 9, 10), (40, 3))
    whose = [None, None, None, None, "a", "b", "b"]
    rows = [backend.open(220, name) for name in whose]
    texts = [LONG, *(LONG[n : 5 + 9 * n] for n in range(1, 7))]
    for context, text in zip(rows[1:], texts[1:], strict=True):
        context.append(text)
    asks = [Ask(rows[0], Extend("slm", texts[0], replace(WHOLE, every=True)))]
    asks += [Ask(rows[1], Extend("slm", [9], WHOLE)), Ask(rows[4], Extend("slm", [9], WHOLE))]
    asks += [Ask(rows[n], Branch("slm", leaves, WHOLE)) for n in (2, 5)]
    asks += [Ask(rows[n], Branch("slm", leaves, WHOLE), other) for n, other in ((2, "b"), (3, "a"), (6, "a"))]
    for ask in asks:
        backend.submit(ask)
    taken = backend.step()
    assert set(taken) == set(asks[1:]) and len(backend.widths) == 1, "short requests never wait for a long one"
    while asks[0].answer is None:
        backend.step()
    assert len(backend.widths) > 2 and max(map(max, backend.widths[1:])) <= 96
    close = partial(torch.testing.assert_close, atol=1e-4, rtol=0)
    for line in (0, 63, 64, 65, 199):
        close(spread(asks[0].answer, line), next_logprobs(plain[None], LONG[: line + 1]))
    for ask, row in ((asks[1], 1), (asks[2], 4)):
        close(spread(ask.answer), next_logprobs(plain[whose[row]], [*texts[row], 9]))
    longer = tuple((*leaf, 6) for leaf in leaves)  # known where the leaves were computed without another adapter
    again = ((2, None), (2, "b"), (3, None), (5, None))
    more = [Ask(rows[n], Branch("slm", longer, WHOLE), other) for n, other in again]
    answers(backend, *more)
    assert sorted(backend.widths[-1]) == [3, 3, 9, 9]
    for ask, row in zip(asks[3:] + more, (2, 5, 2, 3, 6, 2, 2, 3, 5), strict=True):
        assert isinstance(ask.request, Branch)
        for line, leaf in enumerate(ask.request.continuations):
            expected = behind(plain[whose[row]], plain[ask.adapter or whose[row]], texts[row], leaf)
            close(spread(ask.answer, line), expected)


@pytest.mark.parametrize("leaf", [0, 1, 2])
@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
def test_an_adopted_leaf_is_its_own_step(arch: str, leaf: int) -> None:
    model = tiny_model(arch)
    backend = TransformersBackend(model, config=SMALL)
    text, leaves = [3, 9, 4, 17, 22, 8, 41, 5, 30], ((7,), (8, 9, 10), (11, 12))
    context, other = backend.open(100), backend.open(100)
    close = partial(torch.testing.assert_close, atol=2e-5, rtol=0)
    context.append(text)
    for _ in range(2):  # the second branch overwrites the slots of the first
        asks = [Ask(context, Branch("slm", leaves, WHOLE)), Ask(other, Extend("slm", [5], WHOLE))]
        seen = answers(backend, *asks)[0]
        forwards = backend.forwards
        backend.adopt(context, leaf)
        text = [*text, *leaves[leaf]]
        assert backend.forwards == forwards and len(context) == len(text)
        close(spread(seen, leaf), next_logprobs(model, text))
    backend.copy(context, other)
    close(spread(extend(backend, context, [33, 6])), next_logprobs(model, [*text, 33, 6]))
    close(spread(extend(backend, other, [44])), next_logprobs(model, [*text, 44]))
    context.truncate(len(text) - 1)  # within the leaf, where it has more than one token
    close(spread(extend(backend, context, [15])), next_logprobs(model, [*text[:-1], 15]))
    assert context.account.tokens_processed == 9 + 2 * sum(map(len, leaves)) + 2 + 1, "an adopted leaf is paid once"


def test_only_the_leaves_of_the_last_branch_can_be_adopted() -> None:
    model = tiny_model("qwen2")
    backend = TransformersBackend(model, config=SMALL)
    backend.add_adapter("a", adapter(model, 0))
    context = backend.open(100)
    context.append([3, 4])
    branch = Branch("slm", ((7,), (8,)), WHOLE)
    for ask, change in (
        (Ask(context, branch), lambda: context.append([5])),
        (Ask(context, branch), lambda: context.truncate(len(context))),
        (Ask(context, branch), lambda: backend.adopt(context, 1)),
        (Ask(context, branch, "a"), lambda: None),
    ):
        answers(backend, ask)
        change()
        with pytest.raises(RuntimeError, match="branch just made"):
            backend.adopt(context, 0)


@dataclass(frozen=True)
class Kind:
    """A policy, its roles, and how many children it has."""

    policy: Any
    roles: dict[str, Role]
    copies: int = 0

    def run(self, case: int, tokens: int = 96) -> Run:
        prompt = PROMPTS[case % len(PROMPTS)] if case < 10 else LONG[:70]
        return Run(self.policy.run(prompt, f"seed/{case}"), self.roles, tokens + len(prompt), self.copies)


def kinds() -> dict[str, Kind]:
    pair = {"slm": SLM, "llm": LLM}
    one, judged = {"slm": SLM}, {**pair, "verifier": SLM}
    watched = replace(LIMITS, watch=lambda: StopStrings(tiny_tokenizer(), ("w7 ", "w9", "3 w1")))
    sample = Sample(LIMITS, 1.0, 0.9, 20, 0.01)
    vote = MajorityVote(sample, 3, extract=lambda tokens: str(tokens[0] % 2))

    def local(mode: Any, trigger: Any, candidates: int) -> Select:
        score: Any = {"coupled": "bins", "proposer": "adapted", "activated": "anchored"}[mode]
        return Select(LIMITS, trigger, ScorerSelector(mode, score, 0.1, 0.7), candidates)

    return {
        "greedy": Kind(Greedy(LIMITS), one),
        "adapted": Kind(Greedy(LIMITS), {"slm": Role("slm", "b")}),
        "llm": Kind(Greedy(LIMITS, model="llm"), {"llm": LLM}),
        "sample": Kind(sample, one),
        "watched": Kind(replace(sample, limits=watched), one),
        "maj": Kind(vote, one, copies=3),
        "s2t-kl": Kind(BlockVerified(LIMITS, KL.at(0.08), LLMSelector(), 8), pair),
        "s2t-steps": Kind(Select(LIMITS, KL.at(0.08), LLMSelector(), 3), pair),
        "s2t-entropy": Kind(Select(watched, ENTROPY.at(3.5), LLMSelector(), 5), pair),
        "s2t-coin": Kind(Select(LIMITS, coin(0.7), LLMSelector(), 5), pair),
        "takeover": Kind(BlockVerified(LIMITS, KL.at(0.08), LLMSelector(True), 8), pair),
        "takeover-margin": Kind(Select(LIMITS, MARGIN.at(0.9), LLMSelector(True), 4), pair),
        "coupled": Kind(local("coupled", coin(0.6), 4), {"slm": Role("slm", "a")}),
        "proposer": Kind(local("proposer", coin(0.7), 6), {"slm": SLM, "scorer": Role("slm", "b")}),
        "activated": Kind(local("activated", ENTROPY.at(3.5), 6), {"slm": SLM, "scorer": Role("slm", "a")}),
        "mentor": Kind(Mentor(LIMITS, WORDS, FREE, 0.5, 6), judged),
        "mentor-coin": Kind(Mentor(LIMITS, WORDS, CoinVerifier(), 0.5, 5), judged),
    }


KINDS = kinds()


@cache
def models() -> dict[str, Any]:
    return {"slm": tiny_model("qwen2"), "llm": tiny_model("qwen2", seed=1, layers=3)}


def furnished(config: RuntimeConfig = SMALL, **settings: Any) -> dict[str, TransformersBackend]:
    """Backends of fresh copies of both models, with two adapters."""
    backends = backends_of(copy.deepcopy(models()), config=config, **settings)
    generator = torch.Generator().manual_seed(9)
    for seed, name in enumerate("ab"):
        backends["slm"].add_adapter(name, adapter(models()["slm"], seed), torch.randn(5, 32, generator=generator))
    return backends


@pytest.fixture(scope="module")
def plain() -> dict[str, TransformersBackend]:
    return furnished()


def drive(
    runtime: Runtime, arrivals: dict[Any, tuple[int, Run]], act: Callable[[int], None] = lambda step: None
) -> dict[Any, list[Event]]:
    """Step until all runs that come at their steps have ended; the events of each. Checks what is committed."""
    events: dict[Any, list[Event]] = {key: [] for key in arrivals}
    for step in range(5000):
        for key, (arrival, run) in arrivals.items():
            if arrival == step:
                runtime.add(key, run)
        act(step)
        if not runtime.busy and all(arrival <= step for arrival, _ in arrivals.values()):
            break
        for event in runtime.step():
            events[event.key].append(event)
    assert not runtime.busy and not any(backend.waiting for backend in runtime.backends.values())
    assert_closed(runtime.backends)
    for found in events.values():
        assert all(isinstance(event, Committed) for event in found[:-1]), "something came behind the end"
        if found and isinstance(found[-1], Finished):
            steps = [step for event in found[:-1] for step in event.steps]  # type: ignore[union-attr]
            assert steps == list(found[-1].result.steps) and [s.token for s in steps] == list(found[-1].result.tokens)
    return events


def result(events: Sequence[Event]) -> Generation:
    assert isinstance(events[-1], Finished), events
    return events[-1].result  # type: ignore[no-any-return]


def told(generation: Generation) -> Any:
    """What must not depend on neighbours."""
    decided = [(s.token, s.greedy_token, s.fired, s.candidates, s.chooser, s.segments) for s in generation.steps]
    return generation.tokens, generation.finish_reason, generation.votes, decided


@cache
def alone(name: str, case: int) -> Any:
    return told(result(drive(Runtime(furnished()), {0: (0, KINDS[name].run(case))})[0]))


MIXTURES = st.lists(
    st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 11), st.integers(0, 30)), min_size=2, max_size=8
)


@pytest.fixture(scope="module")
def cramped() -> dict[str, TransformersBackend]:
    """Little memory, so that rows wait for each other, and prompts in pieces."""
    backends = furnished(RuntimeConfig(kv_memory_gib=0.0005, max_step_tokens=64, leaf_tokens=16))
    assert 1024 <= backends["llm"].extents.largest <= backends["slm"].extents.slots < 2600
    return backends


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(mixture=MIXTURES, patience=st.sampled_from([0, 3, 1000]))
def test_mixed_methods_are_each_alone(cramped, mixture, patience) -> None:
    runtime = Runtime(cramped, RuntimeConfig(max_wait_steps=patience))
    arrivals = {i: (arrival, KINDS[name].run(case)) for i, (name, case, arrival) in enumerate(mixture)}
    events = drive(runtime, arrivals)
    for i, (name, case, _) in enumerate(mixture):
        assert told(result(events[i])) == alone(name, case), (name, case)


def test_all_methods_at_once_are_each_alone(cramped) -> None:
    arrivals = {name: (i % 5, kind.run(i)) for i, (name, kind) in enumerate(KINDS.items())}
    events = drive(Runtime(cramped), arrivals)
    results = {name: result(found) for name, found in events.items()}
    assert {name: told(found) for name, found in results.items()} == {n: alone(n, i) for i, n in enumerate(KINDS)}
    assert all(results[name].fired_count for name in KINDS if name.startswith(("s2t", "takeover", "act", "prop", "me")))
    assert any(found.finish_reason == "stop" and found.tokens[-1] != 2 for found in results.values()), "no stop string"


@pytest.mark.parametrize("name", ["s2t-kl", "s2t-coin", "takeover", "mentor"])
def test_dear_last_is_in_order(name: str, plain) -> None:
    found, forwards = [], []
    for patience in (0, 1000):
        before = plain["llm"].forwards
        runtime = Runtime(plain, RuntimeConfig(max_wait_steps=patience))
        events = drive(runtime, {case: (0, KINDS[name].run(case)) for case in range(10)})
        found.append([told(result(events[case])) for case in range(10)])
        forwards.append(plain["llm"].forwards - before)
    assert found[0] == found[1]
    assert forwards[1] < 0.8 * forwards[0], forwards


def test_nobody_waits_longer_than_allowed(plain) -> None:
    """A row that needs the LLM while another one never does."""
    for patience in (0, 7):
        runtime, asked = Runtime(plain, RuntimeConfig(max_wait_steps=patience)), []
        endless = Kind(Greedy(Limits(frozenset(), 40)), {"slm": SLM})
        arrivals = {"llm": (0, KINDS["llm"].run(0)), "slm": (0, endless.run(1))}
        drive(runtime, arrivals, lambda step, asked=asked: asked.append(plain["llm"].forwards))  # type: ignore[misc]
        assert asked.index(asked[0] + 1) == patience + 1


@pytest.mark.parametrize(("asking", "steps"), [(1, 20 * 2), (2, 20 * 3 // 2)])
def test_a_dear_forward_comes_when_those_who_wait_have_lost_what_all_would_lose(plain, asking: int, steps: int) -> None:
    """It costs twenty cheap steps of each row, and the steps of all who wait count."""
    runtime, asked = Runtime(plain, RuntimeConfig(max_wait_steps=1000)), []
    endless = Run(Greedy(Limits(frozenset(), 60)).run([3], ""), {"slm": SLM}, 64)
    arrivals = {"slm": (0, endless), **{i: (0, KINDS["llm"].run(i)) for i in range(asking)}}
    drive(runtime, arrivals, lambda step: asked.append(plain["llm"].forwards))
    assert asked.index(asked[0] + 1) == steps + 1


def ends(name: str) -> Any:
    """A policy that needs no model."""
    yield from ()
    return Generation((), "stop", (), votes=(name,))


def test_children_that_end_at_once_are_joined_in_order(plain) -> None:
    def family() -> Any:
        yield Extend("slm", [3], Observe(top_k=1))
        yield Fork([ends("a"), ends("b"), ends("c")])
        joined = [(yield Join()), (yield Join()), (yield Join())]
        return Generation((), "stop", (), votes=tuple(child.votes[0] for child in joined))

    assert result(drive(Runtime(plain), {0: (0, Run(family(), {"slm": SLM}, 64, 3))})[0]).votes == ("a", "b", "c")


@pytest.mark.parametrize("neighbours", [0, 1])
def test_who_is_not_alone_waits_for_what_was_submitted(plain, neighbours: int) -> None:
    def collects() -> Any:
        yield Submit(Extend("llm", [3], Observe(top_k=1)))
        return Generation((), "stop", (), votes=("early",) if (yield Collect()) is None else ("answered",))

    arrivals = {
        0: (1, Run(collects(), {"llm": LLM}, 64)),
        **{i: (0, KINDS["greedy"].run(i)) for i in range(1, 1 + neighbours)},
    }
    assert result(drive(Runtime(plain), arrivals)[0]).votes == (("answered",) if neighbours else ("early",))


@pytest.mark.parametrize("name", ["greedy", "maj", "s2t-entropy", "proposer", "mentor"])
@pytest.mark.parametrize("when", [0, 1, 6])
def test_a_cancelled_run_is_gone_before_the_next_forward(name: str, when: int) -> None:
    backends = {key: Watched(model, config=SMALL) for key, model in copy.deepcopy(models()).items()}
    backends["slm"].add_adapter("b", adapter(models()["slm"], 1), torch.ones(5, 32))
    backends["llm"].cost = 20.0
    runtime, gone, since = Runtime(backends), [], {}
    case = next(case for case in range(10) if len(alone(name, case)[0]) > 10)

    def act(step: int) -> None:
        if step == when:
            rows = [row for row in runtime.live if row.key == "x"]
            gone.extend(context for row in rows for context in row.contexts.values())
            runtime.cancel("x")
            assert not any(row.key == "x" for row in (*runtime.live, *runtime.queue))
            since.update({key: len(backend.taking_part) for key, backend in backends.items()})

    events = drive(runtime, {"x": (0, KINDS[name].run(case)), "y": (0, KINDS["greedy"].run(3))}, act)
    assert gone or when == 0
    for key, backend in backends.items():
        assert not any(context in gone for part in backend.taking_part[since[key] :] for context in part)
    assert not any(isinstance(event, Finished | Failed) for event in events["x"])
    assert told(result(events["y"])) == alone("greedy", 3)
    forwards = [backend.forwards for backend in backends.values()]
    assert runtime.step() == [] and [backend.forwards for backend in backends.values()] == forwards


def breaks(at: int) -> Any:
    """A policy with a defect."""
    for _ in range(at):
        yield Extend("slm", [5], Observe(top_k=1))
    raise ValueError("a defect")


def breaks_in_a_child(child: Any) -> Any:
    yield Extend("slm", [3, 4], Observe(top_k=1))
    yield Fork([Greedy(LIMITS).run([6], ""), child, Greedy(LIMITS).run([7], "")])
    for _ in range(3):
        yield Join()
    raise AssertionError("a child's failure is the family's")


def asks_for(request: Any) -> Any:
    yield Extend("slm", [3, 4], Observe(top_k=1))
    yield request


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "at once": (lambda: breaks(0), "a defect"),
    "later": (lambda: breaks(4), "a defect"),
    "in a child at once": (lambda: breaks_in_a_child(breaks(0)), "a defect"),
    "in a child later": (lambda: breaks_in_a_child(breaks(3)), "a defect"),
    "an unknown role": (lambda: asks_for(Extend("slms", [3], Observe(top_k=1))), "slms"),
    "an unknown role beside a known one": (
        lambda: asks_for((Extend("slm", [3], Observe(top_k=1)), Branch("slms", ((3,),), Observe(top_k=1)))),
        "slms",
    ),
    "nothing to observe": (lambda: asks_for(Extend("slm", (), Observe(top_k=1))), "nothing new"),
    "nothing observed": (lambda: asks_for((Extend("slm", [3]), Extend("slm", [3], Observe(top_k=1)))), "nothing new"),
    "no request": (lambda: asks_for("slm"), "no request"),
    "a child too many": (lambda: asks_for(Fork([breaks(5) for _ in range(5)])), ""),
    "no child to wait for": (lambda: asks_for(Join()), "join"),
}


@pytest.mark.parametrize("defect", BROKEN)
def test_a_policy_that_raises_ends_only_its_run(plain, defect: str) -> None:
    make, message = BROKEN[defect]
    arrivals = {name: (0, KINDS[name].run(case)) for case, name in enumerate(("maj", "s2t-kl"))}
    events = drive(Runtime(plain), {**arrivals, "bad": (1, Run(make(), {"slm": SLM}, 40, copies=3))})
    failure = events["bad"][-1]
    assert isinstance(failure, Failed) and message in str(failure.error)
    assert sum(isinstance(event, Failed) for event in events["bad"]) == 1
    for case, name in enumerate(arrivals):
        assert told(result(events[name])) == alone(name, case)


def stubborn() -> Any:
    try:
        while True:
            yield Extend("slm", [5], Observe(top_k=1))
    finally:
        raise ValueError("on the way out")


def test_a_policy_that_raises_while_it_is_stopped_frees_its_memory(plain) -> None:
    runtime = Runtime(plain)
    events = drive(
        runtime,
        {"bad": (0, Run(stubborn(), {"slm": SLM}, 40)), "y": (0, KINDS["greedy"].run(3))},
        lambda step: runtime.cancel("bad") if step == 4 else None,
    )
    assert told(result(events["y"])) == alone("greedy", 3)


def looks_only_at_states(prompt: Sequence[int]) -> Any:
    seen = yield Extend("slm", prompt, Observe(hidden=True))
    raise AssertionError(f"{seen.hidden} is no state")


@pytest.mark.parametrize("kind", ["greedy", "sample", "maj", "proposer", "activated", "s2t-kl", "llm", "states"])
def test_what_is_not_a_number_stays_in_its_row(kind: str) -> None:
    """A row whose prompt leads to NaN fails; its neighbours do not, nor those who get its memory next."""
    config = RuntimeConfig(kv_memory_gib=0.0005, max_step_tokens=64)
    healthy, sick = (furnished(config, forbidden=(POISON,)) for _ in range(2))
    for backend in sick.values():
        with torch.no_grad():
            backend.flat.model.get_input_embeddings().weight[POISON] = float("nan")
    prompt = [*LONG[:20], POISON, *LONG[20 : 200 if kind in ("greedy", "llm") else 40]]  # the long one comes in pieces
    made = KINDS.get(kind, KINDS["greedy"])
    policy = looks_only_at_states(prompt) if kind == "states" else made.policy.run(prompt, "seed")

    def neighbours() -> dict[Any, tuple[int, Run]]:
        return {0: (0, KINDS["sample"].run(3)), 1: (2, KINDS["s2t-entropy"].run(1))}

    def successors() -> dict[Any, tuple[int, Run]]:
        """Ragged, so that they read over each other's ends, in all of the memory."""
        count = min(backend.extents.slots for backend in sick.values()) // 64
        pair = {"slm": SLM, "llm": LLM}
        policy = Select(LIMITS, KL.at(0.08), LLMSelector(), 3)
        return {i: (0, Run(policy.run(PROMPTS[i % 5], ""), pair, 64)) for i in range(count)}

    events = drive(Runtime(sick), {**neighbours(), "bad": (0, Run(policy, made.roles, 256, made.copies))})
    failure = events["bad"][-1]
    assert isinstance(failure, Failed) and "NaN" in str(failure.error), failure
    expected = drive(Runtime(healthy), neighbours())
    assert all(told(result(events[key])) == told(result(expected[key])) for key in expected)
    found, expected = (drive(Runtime(backends), successors()) for backends in (sick, healthy))
    assert all(told(result(found[key])) == told(result(expected[key])) for key in expected), "NaN was left behind"


def test_a_run_that_can_never_fit_is_refused_at_once(cramped) -> None:
    never = {
        "long": Run(Greedy(LIMITS).run([3], ""), {"slm": SLM}, 10**6),
        "wide": Run(KINDS["maj"].policy.run([3], ""), {"slm": SLM}, 500, copies=30),
    }
    for key, run in never.items():
        runtime = Runtime(cramped)
        arrivals = {"x": (0, KINDS["greedy"].run(0)), key: (3, run), "y": (3, KINDS["greedy"].run(1))}
        at: dict[str, int] = {}
        while runtime.busy or runtime.steps < 4:
            for name, (arrival, each) in arrivals.items():
                if arrival == runtime.steps:
                    runtime.add(name, each)
            for event in runtime.step():
                at[event.key] = runtime.steps
                if event.key == key:
                    assert isinstance(event, Failed) and isinstance(event.error, S2TError)
                    assert "kv_memory_gib" in str(event.error)
        assert at[key] == 4, "it waited for others"
        assert at["x"] > 4 and at["y"] > 4
        assert_closed(cramped)


def test_a_family_that_just_fits_is_served_and_one_more_is_refused(cramped) -> None:
    most = cramped["slm"].capacity(64)
    for copies, end in ((most - 1, Finished), (most, Failed)):  # and the parent
        family = Run(KINDS["maj"].policy.run([3], ""), {"slm": SLM}, 64, copies)
        assert isinstance(drive(Runtime(cramped), {0: (0, family)})[0][-1], end)


def test_rows_join_in_order_when_there_is_memory(cramped) -> None:
    """Each needs 256 slots of each model; the LLM's memory holds a handful."""
    runtime, order = Runtime(cramped), []
    arrivals = {i: (0, Run(KINDS["s2t-kl"].policy.run(PROMPTS[i % 5], f"seed/{i % 5}"), {"slm": SLM, "llm": LLM}, 200))
                for i in range(14)}  # fmt: skip
    most = 0

    def act(step: int) -> None:
        nonlocal most
        most = max(most, len(runtime.live))
        order.extend(row.key for row in runtime.live if row.key not in order)

    events = drive(runtime, arrivals, act)
    assert order == list(range(14)) and 2 <= most < 14
    assert all(told(result(events[i])) == alone("s2t-kl", i % 5) for i in range(14))


class Unreachable(TransformersBackend):
    """A model behind a network that does not answer its n-th request."""

    fails = 2

    def submit(self, ask: Ask) -> None:
        self.fails -= 1
        super().submit(ask)
        if not self.fails:
            ask.answer = ModelUnavailable("no answer")


def goes_on(prompt: Sequence[int]) -> Any:
    """Asks both models at once, and the SLM alone where the LLM does not answer."""
    failures, fresh = 0, prompt
    for _ in range(4):
        seen = Observe(top_k=1)
        try:
            answers = yield Extend("slm", fresh, seen), Extend("llm", fresh, seen)
        except ModelUnavailable:
            failures += 1
            fresh = [5]
        else:
            fresh = [int(answers[0].top_ids[0, 0])]
    return Generation((), "stop", (), votes=(str(failures),))


def test_an_unavailable_model_is_told_to_the_policy_that_asked(plain) -> None:
    backends = {**plain, "llm": Unreachable(copy.deepcopy(models()["llm"]), config=SMALL, cost=20.0)}
    pair = {"slm": SLM, "llm": LLM}
    runs = {"on": Run(goes_on([3, 4]), pair, 40), "y": KINDS["s2t-kl"].run(1), "z": KINDS["greedy"].run(2)}
    backends["llm"].fails = 3  # the third request: one of `on`, or the second one of `y`
    events = drive(Runtime(backends), {key: (0, run) for key, run in runs.items()})
    ends = {key: found[-1] for key, found in events.items()}
    failed = isinstance(ends["y"], Failed) + int(result(events["on"]).votes[0])
    assert failed == 1 and told(result(events["z"])) == alone("greedy", 2)
    backends["llm"].fails = 1
    events = drive(Runtime(backends), {"on": (0, Run(goes_on([3, 4]), pair, 40))})
    assert result(events["on"]).votes == ("1",)
    backends["llm"].fails = 2
    events = drive(Runtime(backends), {"y": (0, KINDS["s2t-kl"].run(1)), "z": (0, KINDS["mentor-coin"].run(3))})
    assert sum(isinstance(found[-1], Failed) for found in events.values()) <= 1


def test_more_candidates_than_the_kl_trigger_compares() -> None:
    wide = {"slm": tiny_model("qwen2", vocab=100), "llm": tiny_model("qwen2", vocab=100, seed=1)}
    for candidates in (65, 100):
        forms = [form(LIMITS, KL.at(0.08), LLMSelector(), candidates) for form in (Select, BlockVerified)]
        stepwise, verified = (
            results_of(backends_of(wide), (form.run(p, "") for p in PROMPTS), tokens=300) for form in forms
        )
        assert [told(r) for r in stepwise] == [told(r) for r in verified]
        fired = [step for r in verified for step in r.steps if step.fired]
        assert fired and all(len(step.candidates) == candidates == len(step.scores) for step in fired)
    takeover = BlockVerified(LIMITS, KL.at(0.08), LLMSelector(True), 8)
    expected = results_of(backends_of(wide), (takeover.run(p, "") for p in PROMPTS))
    assert [r.tokens for r in verified] == [r.tokens for r in expected], "among all tokens, the LLM's own"


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(slots=st.integers(0, 5000), moves=st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 9)), max_size=60))
def test_extents_never_overlap_and_all_memory_comes_back(slots: int, moves: list[tuple[int, int]]) -> None:
    extents = Extents(slots)
    free, largest = {size: list(starts) for size, starts in extents.free.items()}, extents.largest
    assert free_slots(extents) == slots - slots % SMALLEST_EXTENT
    taken: list[tuple[int, int]] = []
    for tokens, which in moves:
        if which >= 6 and taken:
            extents.give(*taken.pop(tokens % len(taken)))
            continue
        extent = extents.take(tokens)
        size = Extents.size_for(tokens)
        if extent is None:
            assert not any(other >= size and starts for other, starts in extents.free.items())
            continue
        taken.append(extent)
        assert extent[1] == size >= max(tokens, SMALLEST_EXTENT) and extent[0] % size == 0
        assert extent[0] + size <= slots
        covered = sorted(taken)
        assert all(a + n <= b for (a, n), (b, _) in pairwise(covered))
        assert free_slots(extents) + sum(size for _, size in taken) == slots - slots % SMALLEST_EXTENT
    for extent in taken:
        extents.give(*extent)
    assert {size: starts for size, starts in extents.free.items() if starts} == free
    assert (extents.take(largest) is not None) == (largest > 0)


class Elsewhere(TransformersBackend):
    """Answers from another machine: some are on their way for a while, and overtake each other."""

    def __init__(self, *args: Any, seed: int = 0, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.remote, self.random = True, random.Random(seed)
        self.travelling: list[Ask] = []
        self.waits: list[bool] = []  # whether somebody was ready to wait, at each step
        self.awaited = False

    def submit(self, ask: Ask) -> None:
        super().submit(ask)
        self.travelling.append(ask)
        ask.arrival.wait = self.wait  # type: ignore[union-attr,method-assign] # the runtime's

    def wait(self, timeout: float | None = None) -> bool:
        self.awaited = True
        return True

    def step(self) -> list[Ask]:
        self.waits.append(self.awaited)
        arrived = [ask for ask in self.travelling if self.awaited or self.random.random() < 0.1]
        self.travelling, self.awaited = [ask for ask in self.travelling if ask not in arrived], False
        others = [ask for ask in self.waiting if ask not in arrived]
        self.waiting = [ask for ask in self.waiting if ask in arrived]
        answered = []
        while self.waiting:
            answered += super().step()
        self.waiting = others
        return answered

    def close(self, context: Any) -> None:
        super().close(context)
        self.travelling = [ask for ask in self.travelling if ask.context is not context]


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(mixture=MIXTURES, seed=st.integers(0, 99))
def test_answers_do_not_depend_on_when_a_remote_model_answers(plain, mixture, seed) -> None:
    away = Elsewhere(copy.deepcopy(models()["llm"]), config=SMALL, cost=20.0, seed=seed)
    arrivals = {i: (arrival, KINDS[name].run(case)) for i, (name, case, arrival) in enumerate(mixture)}
    events = drive(Runtime({**plain, "llm": away}), arrivals)
    for i, (name, case, _) in enumerate(mixture):
        assert told(result(events[i])) == alone(name, case), (name, case)


def test_nobody_waits_for_an_answer_from_elsewhere_while_others_can_go_on(plain) -> None:
    away = Elsewhere(copy.deepcopy(models()["llm"]), config=SMALL, cost=20.0)
    runs = {"asks": (0, KINDS["llm"].run(1)), "goes on": (0, KINDS["greedy"].run(2))}
    before, busy = plain["slm"].forwards, []
    drive(Runtime({**plain, "llm": away}), runs, lambda step: busy.append(plain["slm"].forwards - before))
    steps = busy[-1]
    assert not any(away.waits[: steps - 1]) and away.waits[-1]
    assert busy[: steps + 1] == list(range(steps + 1)), "the SLM missed a step"


class Asleep(BackendElsewhere):
    """Answers in another thread, after a while, or when somebody lets it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sleep: Callable[[], Awaitable[Any]]) -> None:
        super().__init__()
        self.loop, self.sleep = loop, sleep

    def start(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def question(self, ask: Ask) -> Callable[[], Awaitable[Observation]]:
        async def answer() -> Observation:
            await self.sleep()
            return Observation(top_ids=np.array([[7]]), top_logprobs=np.zeros((1, 1), np.float32))

        return answer


@pytest.mark.parametrize("order", [("near", "far"), ("far", "near")])
def test_who_waits_for_several_models_elsewhere_hears_the_first(order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("select_to_think.runtime.PATIENCE_S", 2.0)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    released = asyncio.Event()
    away = {"near": Asleep(loop, partial(asyncio.sleep, 0.001)), "far": Asleep(loop, released.wait)}
    runtime = Runtime({name: away[name] for name in order})
    for name in order:
        tokens = 6 if name == "near" else 1
        policy = Greedy(Limits(frozenset(), tokens), model=name)
        runtime.add(name, Run(policy.run([3], ""), {name: Role(name)}, 20))
    begun, ended = time.monotonic(), []
    while runtime.busy:
        ended += [event.key for event in runtime.step() if isinstance(event, Finished)]
        if ended == ["near"]:
            loop.call_soon_threadsafe(released.set)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert ended == ["near", "far"] and time.monotonic() - begun < 4.0, "six answers waited for the model far away"


def test_what_goes_wrong_in_a_forward_ends_who_took_part(plain) -> None:
    class Full(TransformersBackend):
        def forward(self, plan: Any) -> None:
            if any(context.tokens[:1] == [17] for context in plan.contexts):
                raise MemoryError("out of memory")
            super().forward(plan)

    slm = Full(copy.deepcopy(models()["slm"]), config=RuntimeConfig(kv_memory_gib=0.02, max_step_tokens=64))
    long = Run(Greedy(LIMITS).run([17] * 200, "s"), {"slm": SLM}, 300)
    events = drive(Runtime({"slm": slm}), {"bad": (0, long), "later": (3, KINDS["greedy"].run(2))})
    assert isinstance(events["bad"][-1], Failed) and "out of memory" in str(events["bad"][-1].error)
    assert told(result(events["later"])) == alone("greedy", 2)


class Dead(TransformersBackend):
    """Answers nothing from its n-th request on; what the request would have appended is not there."""

    lives = 0

    def submit(self, ask: Ask) -> None:
        self.lives -= 1
        if self.lives >= 0:
            super().submit(ask)
        else:
            ask.answer = ModelUnavailable("no answer")
            self.waiting.append(ask)


@pytest.mark.parametrize("name", ["s2t-kl", "s2t-steps", "s2t-entropy", "takeover", "takeover-margin", "mentor"])
@pytest.mark.parametrize("lives", [0, 1, 4])
def test_where_the_llm_is_not_reached_the_slm_goes_on_or_the_answer_ends(plain, name: str, lives: int) -> None:
    backends = {**plain, "llm": Dead(copy.deepcopy(models()["llm"]), config=SMALL, cost=20.0)}
    kind = KINDS[name]
    policy = replace(kind.policy, goes_on=True, limits=replace(kind.policy.limits, alternatives=2))
    if isinstance(policy, Select):
        policy = replace(policy, selector=replace(policy.selector, goes_on=True))
    backends["llm"].lives = lives
    found = result(drive(Runtime(backends), {0: (0, replace(kind, policy=policy).run(1))})[0])
    failed = [i for i, step in enumerate(found.steps) if step.llm_failed]
    assert found.counts.llm_failures == len(failed) > 0
    assert {len(step.alternatives) for step in found.steps} == {2}
    assert all(found.steps[i].token == found.steps[i].greedy_token and not found.steps[i].flip for i in failed)
    if lives == 0:
        assert found.tokens == alone("greedy", 1)[0][: len(found.tokens)] and not found.counts.llm_tokens_generated
    else:
        whole = alone(name, 1)[0]
        assert found.tokens[: failed[0]] == whole[: failed[0]], "before the failure the answer is the same"
    backends["llm"].lives = lives
    refused = drive(Runtime(backends), {0: (0, kind.run(1)), 1: (0, KINDS["greedy"].run(2))})
    ended = [isinstance(refused[0][-1], Failed)]
    assert ended == [True] and told(result(refused[1])) == alone("greedy", 2)
