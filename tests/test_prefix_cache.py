"""Keys and values of ended sequences: the same answers, fewer tokens computed, no memory held against anybody."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drive import SMALL, assert_closed
from select_to_think.config import RuntimeConfig
from select_to_think.contexts.memory import Extents
from select_to_think.contexts.prefix_cache import PrefixCache, shared
from select_to_think.contexts.protocol import Ask, Context
from select_to_think.runs import Run
from select_to_think.runtime import Runtime
from select_to_think.structures import Extend, Observe, shared_length
from test_runtime import KINDS, LONG, MIXTURES, alone, drive, furnished, result, told

CACHING = RuntimeConfig(kv_memory_gib=0.0005, max_step_tokens=64, leaf_tokens=16, prefix_cache_tokens=600)


@pytest.fixture(scope="module")
def caching() -> dict[str, Any]:
    return furnished(CACHING)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(mixture=MIXTURES)
def test_answers_are_those_without_a_cache(caching, mixture) -> None:
    """The cache lives on from example to example, so what it holds was made by other mixtures."""
    arrivals = {i: (arrival, KINDS[name].run(case)) for i, (name, case, arrival) in enumerate(mixture)}
    events = drive(Runtime(caching, CACHING), arrivals)
    for i, (name, case, _) in enumerate(mixture):
        assert told(result(events[i])) == alone(name, case), (name, case)


@pytest.mark.parametrize("name", ["greedy", "adapted", "coupled", "proposer", "activated", "s2t-kl", "mentor"])
def test_an_answer_goes_on_from_what_is_known(name: str) -> None:
    """Asked again behind part of its own answer, a method computes only what is new, and ends alike."""
    backends, kind = furnished(RuntimeConfig(kv_memory_gib=0.02, prefix_cache_tokens=4096)), KINDS[name]
    first = result(drive(Runtime(backends), {0: (0, kind.run(11))})[0])
    assert first.counts.slm_tokens_cached == first.counts.llm_tokens_cached == 0
    prompt = LONG[:70] + list(first.tokens[:6])
    again = Run(kind.policy.run(prompt, "seed/11"), kind.roles, len(prompt) + 96)
    known = result(drive(Runtime(backends), {0: (0, again)})[0])
    plain = Run(kind.policy.run(prompt, "seed/11"), kind.roles, len(prompt) + 96)
    assert told(known) == told(result(drive(Runtime(furnished()), {0: (0, plain)})[0]))
    assert known.counts.slm_tokens_cached >= len(prompt) - 2
    if name != "mentor":  # whose draws, and so whose work, are others behind another prompt
        assert known.counts.slm_tokens_processed < first.counts.slm_tokens_processed - 60
    assert bool(known.counts.llm_tokens_cached) == ("llm" in kind.roles)


def test_what_is_observed_is_computed(caching) -> None:
    backend = furnished(CACHING)["slm"]
    seen = []
    for _ in range(2):
        context = backend.open(100)
        ask = Ask(context, Extend("slm", LONG[:60], Observe(top_k=3, every=True)))
        backend.submit(ask)
        while ask.answer is None:
            backend.step()
        seen.append(ask.answer.top_ids.tolist())
        assert context.account.tokens_cached == 0 and len(seen[-1]) == 60
        backend.close(context)
    assert seen[0] == seen[1]


def test_kept_memory_is_given_to_who_needs_it() -> None:
    backend = furnished(RuntimeConfig(kv_memory_gib=0.0005, prefix_cache_tokens=100_000))["slm"]
    for start in range(40):
        context = backend.open(64)
        ask = Ask(context, Extend("slm", LONG[start : start + 30], Observe(top_k=1)))
        backend.submit(ask)
        backend.step()
        backend.close(context)
    assert backend.prefixes.kept, "nothing was kept"
    widest = backend.extents.largest
    context = backend.open(widest)
    assert context is not None and context.size == widest, "kept contexts held memory against a live one"
    backend.close(context)
    assert_closed({"slm": backend})


def test_a_row_that_went_wrong_leaves_nothing_behind() -> None:
    backend = furnished(RuntimeConfig(kv_memory_gib=0.02, prefix_cache_tokens=1000))["slm"]
    context = backend.open(100)
    ask = Ask(context, Extend("slm", LONG[:40], Observe(top_k=1)))
    backend.submit(ask)
    backend.flat.model.get_input_embeddings().weight.data[LONG[5]] = float("nan")
    backend.step()
    assert isinstance(ask.answer, Exception)
    backend.close(context)
    assert not backend.prefixes.kept


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.integers(0, 1), max_size=40))
def test_halving_finds_what_counting_finds(one, other) -> None:
    assert shared(one, other) == shared_length(one, other)


def test_the_longest_unused_goes_first_and_a_longer_text_takes_the_place_of_its_beginning() -> None:
    cache = PrefixCache(Extents(1024), 3 * 64)

    def ended(tokens: list[int], adapter: str | None = None) -> Context:
        context = Context(*cache.take(64), adapter=adapter, tokens=tokens, stored=len(tokens))
        cache.keep(context)
        return context

    texts = [[n] * 20 for n in range(3)]
    first, second, third = map(ended, texts)
    assert list(cache.kept) == [first, second, third]
    asked = Context(0, 64, tokens=[0] * 18 + [9] * 9)
    assert cache.longest(asked, (), 27) == (first, 18)
    assert cache.longest(asked, (), 10) is None, "too short to be worth a copy"
    fourth = ended([3] * 20)
    assert list(cache.kept) == [third, first, fourth]
    longer = ended([3] * 30)
    assert list(cache.kept) == [third, first, longer]
    other = ended([3] * 40, "a")
    assert list(cache.kept) == [first, longer, other], "an adapter's states are its own"
    assert SMALL.prefix_cache_tokens == 0, "offline nothing is kept unless asked for"
