"""llama.cpp's contexts against the plain forwards of the same weights in `transformers`."""

from __future__ import annotations

from shutil import copyfile

import pytest
import torch

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install 'select-to-think[llama-cpp]'")
pytest.importorskip("gguf", reason="gguf is not installed: pip install 'select-to-think[llama-cpp]'")

from drive import SMALL, adapter_of, results_of
from reference import next_logprobs
from select_to_think.cli.data import pair_items
from select_to_think.config import PairConfig, RuntimeConfig, SelectConfig
from select_to_think.contexts.llama_cpp_backend import LlamaCppBackend
from select_to_think.contexts.protocol import Ask
from select_to_think.contexts.sequences import CONTEXTS, SEQUENCES
from select_to_think.models.adapter import inject_adapter
from select_to_think.models.gguf import LoadedGGUF, digest, load_gguf, record_fingerprint
from select_to_think.pairs import bundled_folder
from select_to_think.policies.base import Limits
from select_to_think.policies.greedy import Greedy
from select_to_think.session import Session
from select_to_think.structures import Branch, Extend, Observation, Observe, S2TError, Sampling
from test_contexts import spread
from tiny import tiny_model
from tiny_gguf import tiny_gguf, write_gguf

ARCHITECTURES = ("qwen2", "qwen3", "llama")
WHOLE = Observe(top_k=64)
PAIR = RuntimeConfig(kv_memory_gib=0.05)
PREFIX = [3, 9, 4, 17, 22, 8, 41, 5, 30, 12, 6]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def both(request, tmp_path_factory):
    """A model in `transformers`, and its weights in llama.cpp."""
    model = tiny_model(request.param, tie=request.param == "qwen3")
    return model, tiny_gguf(tmp_path_factory.mktemp(request.param), model)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    model = tiny_model("qwen2")
    return model, tiny_gguf(tmp_path_factory.mktemp("qwen"), model)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The bundled pair, its SLM as a GGUF file, and the folder of the pair."""
    session, demo = Session.load(PairConfig(), PAIR), bundled_folder("demo")
    folder = tmp_path_factory.mktemp("slm")
    for file in (demo / "slm").iterdir():
        if file.suffix in (".json", ".jinja"):
            copyfile(file, folder / file.name)
    write_gguf(folder / "model.gguf", session.slm.model, session.slm.fingerprint)
    return session, folder / "model.gguf", demo


def backend_of(loaded: LoadedGGUF, **settings) -> LlamaCppBackend:
    return LlamaCppBackend(loaded, **{"config": SMALL, **settings})


def answers(backend, *asks: Ask):
    for ask in asks:
        backend.submit(ask)
    for _ in range(100):
        if all(ask.answer is not None for ask in asks):
            return [ask.answer for ask in asks]
        backend.step()
    raise AssertionError("not answered in 100 steps")


def extend(backend, context, tokens, observe=WHOLE):
    return answers(backend, Ask(context, Extend("slm", tokens, observe)))[0]


def assert_says(observation, expected: torch.Tensor, line: int = 0) -> None:
    torch.testing.assert_close(spread(observation, line), expected, atol=3e-5, rtol=0)


def assert_nothing_left(backend: LlamaCppBackend) -> None:
    memory = backend.memory
    assert sorted(memory.free) == list(range(SEQUENCES)) and not any(memory.filled)
    assert memory.left == memory.cells and not memory.contexts
    assert not backend.waiting and not backend.taken


def test_ragged_rows_equal_fresh_forwards(both) -> None:
    model, loaded = both
    backend = backend_of(loaded)
    rows = [list(range(3, 3 + n)) for n in (1, 25, 7, 12)]
    contexts = [backend.open(100) for _ in rows]
    for chunk in ([5], [9, 4, 33], [7]):
        new = [(*(rows[i] if len(c) == 0 else ()), *chunk) for i, c in enumerate(contexts)]
        seen = answers(backend, *(Ask(c, Extend("slm", n, WHOLE)) for c, n in zip(contexts, new, strict=True)))
        for i, observation in enumerate(seen):
            rows[i] = rows[i] + chunk
            assert_says(observation, next_logprobs(model, rows[i]))
    for context in contexts:
        backend.close(context)
    assert_nothing_left(backend)


def test_leaves_equal_separate_forwards_and_leave_no_trace(both) -> None:
    """Also where the tokens before them are new in the same step."""
    model, loaded = both
    backend = backend_of(loaded)
    context, other = backend.open(100), backend.open(100)
    context.append(PREFIX)
    extend(backend, other, PREFIX[:4])
    leaves = ((7,), (8, 9, 10), (11,), (40, 3))
    seen = answers(backend, Ask(context, Branch("slm", leaves, WHOLE)), Ask(other, Branch("slm", leaves[:2], WHOLE)))
    for row, observation in ((PREFIX, seen[0]), (PREFIX[:4], seen[1])):
        for line in range(len(observation.top_ids)):
            assert_says(observation, next_logprobs(model, [*row, *leaves[line]]), line)
    assert len(context) == len(PREFIX)
    assert_says(extend(backend, context, [50]), next_logprobs(model, [*PREFIX, 50]))


def test_an_adopted_leaf_is_its_own_step(both) -> None:
    model, loaded = both
    backend = backend_of(loaded)
    context = backend.open(100)
    extend(backend, context, PREFIX)
    for leaf in (1, 0):
        before = list(context.tokens)
        leaves = ((7,), (8, 9, 10))
        answers(backend, Ask(context, Branch("slm", leaves, WHOLE)))
        backend.adopt(context, leaf)
        assert context.tokens == [*before, *leaves[leaf]] and not context.pending
        assert_says(extend(backend, context, [5]), next_logprobs(model, [*before, *leaves[leaf], 5]))
    backend.step()
    assert len(backend.memory.free) == SEQUENCES - 1
    context.append([4])
    with pytest.raises(RuntimeError, match="just made"):
        backend.adopt(context, 0)


def test_every_truncate_fork(both) -> None:
    model, loaded = both
    backend = backend_of(loaded)
    context = backend.open(100)
    context.append(PREFIX[:5])
    seen = extend(backend, context, PREFIX[5:], Observe(top_k=64, every=True, hidden=True))
    for line in range(6):
        assert_says(seen, next_logprobs(model, PREFIX[: 6 + line]), line)
    with torch.no_grad():
        states = model.base_model(torch.tensor([PREFIX])).last_hidden_state[0, 5:]
    torch.testing.assert_close(torch.from_numpy(seen.hidden), states, atol=3e-5, rtol=1e-4)
    single = extend(backend, context, [7], Observe(hidden=True))
    before = single.hidden.copy()
    extend(backend, context, [9], Observe(hidden=True))
    assert (single.hidden == before).all(), "another call wrote into what was observed"
    context.truncate(len(PREFIX))
    fork = backend.open(100)
    backend.copy(context, fork)
    context.truncate(8)
    assert_says(extend(backend, context, [2]), next_logprobs(model, [*PREFIX[:8], 2]))
    assert_says(extend(backend, fork, [2]), next_logprobs(model, [*PREFIX, 2]))


def test_an_adapter_acts_on_its_own_contexts_and_leaves(both, tmp_path) -> None:
    """coupled, proposer: a context under the adapter. activated: leaves under it, on cells computed without it."""
    arch = both[0].config.model_type
    model, loaded = tiny_model(arch, tie=arch == "qwen3"), both[1]
    switch = inject_adapter(model, rank=4, alpha=8)
    with torch.no_grad():
        for _, weight in switch.weights():
            weight.normal_(std=0.3)
    bins = torch.randn(16, model.config.hidden_size)
    backend = backend_of(loaded)
    backend.add_adapter("scorer", adapter_of(switch), bins)
    plain, adapted = backend.open(100), backend.open(100, "scorer")
    seen = answers(
        backend, *(Ask(context, Extend("slm", PREFIX, Observe(top_k=64, hidden=True))) for context in (plain, adapted))
    )
    assert_says(seen[0], next_logprobs(both[0], PREFIX))
    leaves = tuple((token,) for token in (7, 8, 9))
    look = Observe(top_k=64, bins=True)
    on, activated = answers(
        backend,
        Ask(adapted, Branch("slm", leaves, look)),
        Ask(plain, Branch("slm", leaves, look, adapter="scorer"), "scorer"),
    )
    base = [extend(backend, plain, [token]) for token in (7,)]
    switch.set_active(True)
    assert_says(seen[1], next_logprobs(model, PREFIX))
    for line, leaf in enumerate(leaves):
        assert_says(on, next_logprobs(model, [*PREFIX, *leaf]), line)
        expected = next_logprobs(model, [*PREFIX, *leaf])
        assert not torch.allclose(spread(activated, line), expected, atol=1e-3), "the cells before it are the adapter's"
    ids = torch.tensor([[*PREFIX, 7]])
    with torch.no_grad():
        switch.set_active(False)
        known = model(ids[:, :-1], use_cache=True).past_key_values
        switch.set_active(True)
        state = model.base_model(ids[:, -1:], past_key_values=known).last_hidden_state[0, -1]
        logits = model.get_output_embeddings()(state)
    assert_says(activated, logits.log_softmax(-1))
    score = (state @ bins.T).softmax(-1) @ torch.linspace(0, 1, 16)
    assert abs(float(activated.bin_scores[0]) - float(score)) < 1e-4
    assert_says(base[0], next_logprobs(both[0], [*PREFIX, 7]))


def test_forbidden_ids_have_probability_zero_and_draws_follow_their_number(qwen) -> None:
    model, loaded = qwen
    best = int(next_logprobs(model, PREFIX).argmax())
    backend = backend_of(loaded, forbidden=[best])
    context = backend.open(100)
    seen = extend(backend, context, PREFIX, Observe(top_k=64, entropy=True, ids=((best, 5),), sampling=Sampling(0.3)))
    assert best not in seen.top_ids[0, :63] and seen.asked_logprobs[0, 0] == -float("inf")
    expected = next_logprobs(model, PREFIX).index_fill(0, torch.tensor([best]), -torch.inf).log_softmax(-1)
    assert abs(seen.asked_logprobs[0, 1] - float(expected[5])) < 3e-5
    assert abs(seen.entropy_nats[0] - float(torch.special.entr(expected.exp()).sum())) < 1e-4
    assert abs(seen.sampled_logprob - float(expected[seen.sampled_id])) < 3e-5


def test_more_tokens_than_a_call_takes_in_pieces_of_prompts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("select_to_think.contexts.llama_cpp_backend.CALL_TOKENS", 192)
    model = tiny_model("qwen2")
    backend = backend_of(tiny_gguf(tmp_path, model), config=RuntimeConfig(kv_memory_gib=0.05, max_step_tokens=300))
    rows = [[(7 * i + n) % 60 + 3 for i in range(n)] for n in (400, 250, 60, 60, 60, 60, 1)]
    contexts = [backend.open(450) for _ in rows]
    every = Observe(top_k=64, every=True)
    seen = answers(backend, *(Ask(c, Extend("slm", row, every)) for c, row in zip(contexts, rows, strict=True)))
    for row, observation in zip(rows, seen, strict=True):
        assert len(observation.top_ids) == len(row)
        for line in {0, len(row) // 2, len(row) - 1}:
            assert_says(observation, next_logprobs(model, row[: line + 1]), line)


def test_branches_wait_for_sequences_and_optional_ones_are_left_out(qwen) -> None:
    model, loaded = qwen
    backend = backend_of(loaded)
    contexts = [backend.open(60) for _ in range(5)]
    leaves = tuple((token,) for token in range(3, 43))
    asks = [Ask(context, Branch("slm", leaves, WHOLE)) for context in contexts]
    for context in contexts:
        context.append(PREFIX)
    for ask, observation in zip(asks, answers_as_they_come(backend, asks), strict=True):
        assert_says(observation, next_logprobs(model, [*PREFIX, 3]))
        assert len(observation.top_ids) == len(leaves), ask
    (nothing,) = answers(backend, Ask(contexts[0], Branch("slm", leaves, WHOLE, optional=True)))
    assert nothing == Observation()
    (error,) = answers(backend, Ask(contexts[0], Branch("slm", ((5,),) * (SEQUENCES - CONTEXTS + 1), WHOLE)))
    assert isinstance(error, S2TError) and "--candidates" in str(error)


def answers_as_they_come(backend, asks):
    """Whoever is answered goes on, which frees the leaves of its branch."""
    for ask in asks:
        backend.submit(ask)
    for _ in range(20):
        for ask in backend.step():
            ask.context.append([4])
    return [ask.answer for ask in asks]


def test_a_full_memory_is_the_answer_and_the_others_go_on(qwen) -> None:
    model, loaded = qwen
    backend = backend_of(loaded, config=RuntimeConfig(kv_memory_gib=0.0))  # two blocks of cells
    first = backend.open(200)
    assert backend.open(200) is None and backend.capacity(100) == 2
    (error,) = answers(backend, Ask(first, Extend("slm", [5] * 300, WHOLE)))
    assert isinstance(error, S2TError) and "kv_memory_gib" in str(error)
    backend.close(first)
    assert_nothing_left(backend)
    second = backend.open(200)
    assert_says(extend(backend, second, PREFIX), next_logprobs(model, PREFIX))


def test_a_call_that_fails_is_the_answer_and_leaves_nothing(qwen, monkeypatch) -> None:
    model, loaded = qwen
    backend = backend_of(loaded)
    context = backend.open(100)
    extend(backend, context, PREFIX[:4])
    real = backend.functions.llama_decode
    monkeypatch.setattr(backend.functions, "llama_decode", lambda *_: -3)
    (error,) = answers(backend, Ask(context, Branch("slm", ((5,), (6,)), WHOLE)))
    assert isinstance(error, S2TError) and "-3" in str(error)
    monkeypatch.setattr(backend.functions, "llama_decode", real)
    assert len(backend.memory.free) == SEQUENCES - 1
    assert_says(extend(backend, context, PREFIX[4:]), next_logprobs(model, PREFIX))


def test_ended_sequences_serve_those_that_begin_alike(qwen) -> None:
    model, loaded = qwen
    backend = backend_of(loaded, config=RuntimeConfig(kv_memory_gib=0.02, prefix_cache_tokens=500))
    text = PREFIX * 3
    first = backend.open(60)
    extend(backend, first, text)
    backend.close(first)
    second = backend.open(60)
    observation = extend(backend, second, [*text[:25], 7, 8])
    assert second.account.tokens_cached == 25 and second.account.tokens_processed == 2
    assert_says(observation, next_logprobs(model, [*text[:25], 7, 8]))


def test_batched_equals_single_and_a_cancelled_row_leaves_nothing(qwen) -> None:
    _, loaded = qwen
    prompts = [[3 + (5 * i + j) % 50 for j in range(4 + i)] for i in range(9)]
    limits = Limits(max_new_tokens=12, stop_ids=frozenset({2}))
    policies = [Greedy(limits).run(prompt, "") for prompt in prompts]
    backend = backend_of(loaded)
    together = results_of({"slm": backend}, policies, rows=9, tokens=64)
    assert_nothing_left(backend)
    alone = [results_of({"slm": backend}, [Greedy(limits).run(prompt, "")], tokens=64)[0] for prompt in prompts]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    context = backend.open(64)
    backend.submit(Ask(context, Extend("slm", PREFIX, WHOLE)))
    backend.close(context)
    assert not backend.step()
    assert_nothing_left(backend)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("greedy", {}),
        ("sample", {}),
        ("maj@2", {}),
        ("s2t-local", {}),
        ("s2t-local", {"trigger": "learned"}),
        ("s2t-local", {"scorer_mode": "coupled"}),
        ("s2t-local", {"scorer_mode": "proposer"}),
        ("s2t-local", {"scorer_mode": "proposer", "score": "adapted"}),
        ("s2t", {}),
        ("takeover", {}),
        ("mentor-free", {}),
        ("mentor-mlp", {}),
    ],
)
def test_the_bundled_slm_decides_as_in_transformers(method, settings, bundled) -> None:
    """With the fingerprint of its weights in the file it takes the pair's own scorers, heads and thresholds."""
    own, file, demo = bundled
    select = SelectConfig(**settings)
    pair = PairConfig(
        slm=str(file),
        llm=str(demo / "llm"),
        calibration=str(demo / "calibration.json"),
        scorer=str(demo / "scorers" / f"{select.scorer_mode}-{select.score}"),
        trigger_head=str(demo / "trigger"),
        verifier=str(demo / "verifier"),
    )
    questions = [item.question for item in pair_items(PairConfig(), "validation", 2)]
    expected = own.generate(questions, method, select=select)
    for found, answer in zip(
        Session.load(pair, PAIR).generate(questions, method, select=select), expected, strict=True
    ):
        assert found.tokens == answer.tokens
        assert [step.fired for step in found.steps] == [step.fired for step in answer.steps]
        assert max(abs(a.logprob - b.logprob) for a, b in zip(found.steps, answer.steps, strict=True)) < 1e-4
    if method not in ("greedy", "sample", "maj@2"):
        assert any(step.fired or step.chooser == "llm" for answer in expected for step in answer.steps)


def test_what_lies_beside_the_file_must_fit(tmp_path) -> None:
    model = tiny_model("qwen2")
    loaded = tiny_gguf(tmp_path, model)
    assert loaded.fingerprint == digest(loaded.path) and loaded.dtype == "all F32" and loaded.max_positions == 512
    with pytest.raises(S2TError, match="checkpoint it was made from"):
        _ = loaded.trainable
    copy = tmp_path / "recorded.gguf"
    record_fingerprint(loaded.path, copy, "abc")
    assert load_gguf(str(copy)).fingerprint == "abc"
    tiny_model("qwen2", layers=3).config.save_pretrained(tmp_path)
    with pytest.raises(S2TError, match=r"config\.json beside .* is of another model"):
        load_gguf(str(loaded.path))
    (tmp_path / "config.json").unlink()
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(S2TError, match=r"put config\.json and tokenizer\.json"):
        load_gguf(str(loaded.path))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, but no more")
    with pytest.raises(S2TError, match=r"llama\.cpp cannot load"):
        load_gguf(str(tmp_path / "broken.gguf"))
    with pytest.raises(S2TError, match="there is no file"):
        load_gguf(str(tmp_path / "none.gguf"))
