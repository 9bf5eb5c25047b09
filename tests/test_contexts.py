"""The verbs against separate full forwards, on every architecture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from drive import SMALL
from reference import next_logprobs
from select_to_think import probability
from select_to_think.contexts import graphs, observing
from select_to_think.contexts.kv import left_in_group
from select_to_think.contexts.layout import Segment, lay_out
from select_to_think.contexts.protocol import Ask
from select_to_think.contexts.transformers_backend import TransformersBackend
from select_to_think.structures import Branch, Extend, Observation, Observe, S2TError, Sampling
from tiny import ARCHITECTURES, tiny_model

WHOLE = Observe(top_k=64)
CASES = [(arch, *case) for arch in ARCHITECTURES for case in ((False, None), (True, 40), (False, 1))]


def spread(observation, line: int = 0) -> torch.Tensor:
    """Top-V log-probabilities back in id order, (V,)."""
    out = torch.empty(64)
    out[torch.from_numpy(observation.top_ids[line])] = torch.from_numpy(observation.top_logprobs[line])
    return out


def answers(backend, *asks: Ask):
    """Submit at once, and step until all are answered."""
    for ask in asks:
        backend.submit(ask)
    while any(ask.answer is None for ask in asks):
        backend.step()
    return [ask.answer for ask in asks]


def extend(backend, context, tokens, observe=WHOLE):
    return answers(backend, Ask(context, Extend("slm", tokens, observe)))[0]


@pytest.mark.parametrize(("arch", "tie", "most_slots"), CASES)
def test_ragged_batches_equal_fresh_forwards(arch: str, tie: bool, most_slots: int | None) -> None:
    model = tiny_model(arch, tie=tie)
    backend = TransformersBackend(model, config=SMALL)
    backend.flat.most_slots = most_slots
    rows = [list(range(3, 3 + n)) for n in (1, 25, 7, 12)]
    contexts = [backend.open(100) for _ in rows]
    for chunk in ([5], [9, 4, 33], [7]):
        new = [(*(rows[i] if len(c) == 0 else ()), *chunk) for i, c in enumerate(contexts)]
        before = backend.forwards
        seen = answers(backend, *(Ask(c, Extend("slm", n, WHOLE)) for c, n in zip(contexts, new, strict=True)))
        assert backend.forwards == before + 1
        for i, observation in enumerate(seen):
            rows[i] = rows[i] + chunk
            torch.testing.assert_close(spread(observation), next_logprobs(model, rows[i]), atol=2e-5, rtol=0)


def test_a_group_reads_no_more_than_it_may_and_rows_of_similar_length() -> None:
    lengths = [30, 3, 90, 4, 31, 5, 2, 60]
    segments = [Segment(128 * i, 128, n, n, (7,)) for i, n in enumerate(lengths)]
    step = lay_out(segments, torch.device("cpu"), 64)
    assert [(group.end - group.begin, group.span) for group in step.groups] == [(4, 6), (2, 32), (1, 61), (1, 91)]
    assert [int(step.slots[offset]) for offset in step.offsets] == [s.start + s.first for s in segments]
    (whole,) = lay_out(segments, torch.device("cpu")).groups
    assert (whole.end, whole.span, whole.rows) == (8, 91, slice(0, 8))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_prompts_of_one_length_equal_fresh_forwards(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mask where none is needed; the sliding windows of 8 are reached at the prompt or while decoding."""
    model = tiny_model(arch)
    for length in (5, 12):
        backend = TransformersBackend(model, config=SMALL)
        rows = [list(range(3 + i, 3 + i + length)) for i in range(4)]
        contexts = [backend.open(100) for _ in rows]
        fresh = rows
        for _ in range(5):
            with monkeypatch.context() as patch:
                masked = watch_masks(patch)
                asks = [Ask(c, Extend("slm", new, WHOLE)) for c, new in zip(contexts, fresh, strict=True)]
                seen = answers(backend, *asks)
            if len(rows[0]) < 8:
                assert masked == [False, False], "a mask that costs time"
            for row, observation in zip(rows, seen, strict=True):
                torch.testing.assert_close(spread(observation), next_logprobs(model, row), atol=2e-5, rtol=0)
            fresh = [[int(observation.top_ids[0, 0])] for observation in seen]
            rows = [row + new for row, new in zip(rows, fresh, strict=True)]


def watch_masks(patch: pytest.MonkeyPatch) -> list[bool]:
    """For each call of sdpa from now on, whether it got a mask."""
    calls: list[bool] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def call(*args, **settings):
        calls.append(settings.get("attn_mask") is not None)
        return real(*args, **settings)

    patch.setattr(torch.nn.functional, "scaled_dot_product_attention", call)
    return calls


@pytest.mark.parametrize("most_slots", [None, 1])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_branch_equals_separate_forwards_and_leaves_no_trace(arch: str, most_slots: int | None) -> None:
    model = tiny_model(arch)
    backend = TransformersBackend(model, config=SMALL)
    backend.flat.most_slots = most_slots
    prefix = [3, 9, 4, 17, 22, 8, 41, 5, 30, 12, 6]
    context, other = backend.open(100), backend.open(100)
    context.append(prefix)
    other.append(prefix[:4])
    leaves = ((7,), (8, 9, 10), (11,), (40, 3))
    seen = answers(backend, Ask(context, Branch("slm", leaves, WHOLE)), Ask(other, Branch("slm", leaves[:2], WHOLE)))
    for row, observation in ((prefix, seen[0]), (prefix[:4], seen[1])):
        for line in range(len(observation.top_ids)):
            expected = next_logprobs(model, [*row, *leaves[line]])
            torch.testing.assert_close(spread(observation, line), expected, atol=2e-5, rtol=0)
    assert len(context) == len(prefix)
    after = extend(backend, context, [50])
    torch.testing.assert_close(spread(after), next_logprobs(model, [*prefix, 50]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_leaves_that_go_on_with_earlier_ones_are_computed_once(arch: str) -> None:
    """Chains that grow by a token, fork and are adopted, beside a row of its own; the sliding windows are passed."""
    model = tiny_model(arch)
    backend = TransformersBackend(model, config=SMALL)
    rows = [[3, 9, 4, 17, 22, 8], [3, 5]]
    contexts = [backend.open(200) for _ in rows]
    for context, row in zip(contexts, rows, strict=True):
        context.append(row)
    context = contexts[0]

    def check(chains: list[tuple[int, ...]], new: int) -> None:
        before = context.account.tokens_processed
        asks = [Ask(context, Branch("slm", chains, WHOLE)), Ask(contexts[1], Branch("slm", chains[:1], WHOLE))]
        for row, observation in zip(rows, answers(backend, *asks), strict=True):
            for line in range(len(observation.top_ids)):
                expected = next_logprobs(model, [*row, *chains[line]])
                torch.testing.assert_close(spread(observation, line), expected, atol=2e-5, rtol=0)
        assert context.account.tokens_processed - before == new

    check([(7,), (8,)], len(rows[0]) + 2)
    check([(7, 1), (8, 2, 5)], 3)
    check([(7, 1, 9), (8, 2, 5, 11), (8, 2, 5, 12), (30,)], 4)
    check([(8, 2, 5, 12, 6), (7, 1, 9, 9), (7, 1, 9)], 3)  # the last is known, and seen again
    backend.adopt(context, 0)
    rows[0] += [8, 2, 5, 12, 6]
    check([(7, 1, 9, 9), (4, 4)], 6)
    backend.adopt(context, 0)
    rows[0] += [7, 1, 9, 9]
    after = extend(backend, context, [50])
    rows[0].append(50)
    torch.testing.assert_close(spread(after), next_logprobs(model, rows[0]), atol=2e-5, rtol=0)
    for length in range(1, 12):  # longer than a window
        check([tuple(range(20, 20 + length)), (9,)], 2)


def test_leaves_for_which_there_is_no_room_are_computed_again_once() -> None:
    """Slots behind the prefix: 98. 4 are taken at first and 3 a step then, until at step 33 the dead leaves must go."""
    model = tiny_model("qwen2")
    backend = TransformersBackend(model, config=SMALL)
    context = backend.open(100)
    prefix = list(range(3, 33))
    context.append(prefix)
    leaf: list[int] = []
    for step in range(40):
        leaf = [*leaf, step + 3]
        leaves = (leaf, [5, *leaf], [60 - step])
        (seen,) = answers(backend, Ask(context, Branch("slm", leaves, WHOLE)))
        for line, tokens in enumerate(leaves):
            torch.testing.assert_close(spread(seen, line), next_logprobs(model, [*prefix, *tokens]), atol=2e-5, rtol=0)
    assert context.size == 128
    assert context.account.tokens_processed == 30 + 4 + 31 * 3 + (33 + 34 + 1) + 7 * 3


@pytest.mark.parametrize("failure", ["forward", "memory"])
def test_nothing_goes_on_with_leaves_of_a_branch_that_failed(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen2")
    backend = TransformersBackend(model, config=SMALL)
    context, branch = backend.open(100), Branch("slm", [[7], [8]], WHOLE)
    extend(backend, context, [3, 4])
    answers(backend, Ask(context, branch))
    with monkeypatch.context() as patch:
        if failure == "forward":
            patch.setattr(backend.flat, "run", lambda *_: 1 / 0)
            (error,) = answers(backend, Ask(context, Branch("slm", [[9], [10]], WHOLE)))
        else:
            patch.setattr(backend.prefixes, "take", lambda _: None)
            (error,) = answers(backend, Ask(context, Branch("slm", [[9] * 200], WHOLE)))
    assert isinstance(error, ZeroDivisionError if failure == "forward" else S2TError)
    with pytest.raises(RuntimeError, match="branch just made"):
        backend.adopt(context, 0)
    (seen,) = answers(backend, Ask(context, Branch("slm", [[9, 1]], WHOLE)))
    torch.testing.assert_close(spread(seen), next_logprobs(model, [3, 4, 9, 1]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("leaves", [(), ((7,), ())])
def test_a_branch_of_nothing_is_refused(leaves: tuple[tuple[int, ...], ...]) -> None:
    backend = TransformersBackend(tiny_model("qwen2"), config=SMALL)
    context = backend.open(100)
    context.append([3, 4])
    with pytest.raises(RuntimeError, match="at least one token"):
        backend.submit(Ask(context, Branch("slm", leaves, WHOLE)))
    assert not backend.waiting


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_truncate_fork(arch: str) -> None:
    model = tiny_model(arch)
    backend = TransformersBackend(model, config=SMALL)
    context = backend.open(100)
    prefix = [3, 9, 4, 17, 22, 8, 41, 5, 30, 12, 6, 33]
    context.append(prefix[:5])
    seen = extend(backend, context, prefix[5:], Observe(top_k=64, every=True))
    assert seen.top_ids.shape == (7, 64)
    for line in range(7):
        expected = next_logprobs(model, prefix[: 6 + line])
        torch.testing.assert_close(spread(seen, line), expected, atol=2e-5, rtol=0)
    fork = backend.open(100)
    extend(backend, fork, [9])
    answers(backend, Ask(fork, Branch("slm", [[2]], WHOLE)))
    backend.copy(context, fork)
    (seen,) = answers(backend, Ask(fork, Branch("slm", [[2, 6]], WHOLE)))
    torch.testing.assert_close(spread(seen), next_logprobs(model, [*prefix, 2, 6]), atol=2e-5, rtol=0)
    context.truncate(8)
    torch.testing.assert_close(
        spread(extend(backend, context, [2])), next_logprobs(model, [*prefix[:8], 2]), atol=2e-5, rtol=0
    )
    torch.testing.assert_close(
        spread(extend(backend, fork, [2])), next_logprobs(model, [*prefix, 2]), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("rooms", [(100, 100, 100, 100, 100), (300, 100, 40, 100, 40)], ids=["alike", "mixed"])
def test_replayed_steps_equal_fresh_forwards(
    arch: str, rooms: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded to a power of two, over more slots than are filled, with rows that leave; only CUDA is not here."""
    replays = []

    def recorded(run, device, pool):
        states = run().clone()
        return (lambda: replays.append(states.copy_(run()))), states, pool

    monkeypatch.setattr(graphs, "capture", recorded)
    model = tiny_model(arch)
    backend = TransformersBackend(model, config=SMALL)
    backend.flat.record(backend.memory)
    rows = [list(range(3, 3 + n)) for n in (1, 25, 7, 12, 3)]
    contexts = [backend.open(room) for room in rooms]
    for context, row in zip(contexts, rows, strict=True):
        context.append(row[:-1])
        extend(backend, context, row[-1:])
    replays.clear()
    for number in range(9):
        if number == 4:
            for context in contexts[1::2]:
                backend.close(context)
            rows, contexts = rows[::2], contexts[::2]
        asks = [Ask(context, Extend("slm", [7 + number], WHOLE)) for context in contexts]
        for row, seen in zip(rows, answers(backend, *asks), strict=True):
            row.append(7 + number)
            torch.testing.assert_close(spread(seen), next_logprobs(model, row), atol=2e-5, rtol=0)
    assert len(replays) == 9
    for length in (1, 2, 3):  # of which nothing but its last token is computed
        (seen,) = answers(backend, Ask(contexts[0], Branch("slm", [[9, 8, 7][:length]], WHOLE)))
        expected = next_logprobs(model, [*rows[0], *[9, 8, 7][:length]])
        torch.testing.assert_close(spread(seen), expected, atol=2e-5, rtol=0)
    shapes = {tuple(rows for rows, _, _ in shapes) for shapes, _ in backend.flat.graphs.recordings}
    assert shapes == ({(1,), (8,), (4,)} if len(set(rooms)) == 1 else {(1,), (2, 2, 1), (2, 1)})


def test_deferred_tokens_ride_along_in_one_forward() -> None:
    model = tiny_model("qwen2")
    backend = TransformersBackend(model, config=SMALL)
    context = backend.open(100)
    for token in (3, 4, 5):
        context.append([token])
    assert context.account.forwards == 0
    seen = extend(backend, context, [6])
    assert context.account.forwards == 1 and context.account.tokens_processed == 4
    torch.testing.assert_close(spread(seen), next_logprobs(model, [3, 4, 5, 6]), atol=2e-5, rtol=0)
    context.append([7, 8])
    context.truncate(5)
    torch.testing.assert_close(
        spread(extend(backend, context, [9])), next_logprobs(model, [3, 4, 5, 6, 7, 9]), atol=2e-5, rtol=0
    )


def test_closed_rows_are_reused_without_leaking_content() -> None:
    model = tiny_model("llama")
    backend = TransformersBackend(model, config=SMALL)
    first = backend.open(100)
    extend(backend, first, list(range(3, 60)))
    backend.close(first)
    second = backend.open(100)
    assert second.start == first.start
    torch.testing.assert_close(spread(extend(backend, second, [3])), next_logprobs(model, [3]), atol=2e-5, rtol=0)


def test_observations() -> None:
    model = tiny_model("qwen2")
    forbidden = [0, 60, 61]
    backend = TransformersBackend(model, forbidden=forbidden, config=SMALL)
    context = backend.open(100)
    prompt = [3, 4, 5]
    observe = Observe(top_k=5, entropy=True, ids=((7, 9),), sampling=Sampling(0.3), hidden=True)
    seen = extend(backend, context, prompt, observe)
    expected = next_logprobs(model, prompt, forbidden)
    assert seen.top_ids[0].tolist() == expected.topk(5).indices.tolist()
    assert seen.entropy_nats[0] == pytest.approx(float(torch.special.entr(expected.exp()).sum()), abs=1e-5)
    assert seen.asked_logprobs[0].tolist() == pytest.approx(expected[[7, 9]].tolist(), abs=1e-5)
    assert seen.sampled_id not in forbidden
    assert seen.sampled_logprob == pytest.approx(float(expected[seen.sampled_id]), abs=1e-5)
    with torch.no_grad():
        states = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(torch.from_numpy(seen.hidden[0]), states[0, -1], atol=1e-5, rtol=0)


def test_logits_are_read_in_pieces_and_draws_are_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other settings on each line, in one piece and line by line, in heads that hold every draw and none."""
    generator = torch.Generator().manual_seed(0)
    states, rows = torch.randn(6, 16, generator=generator), torch.randn(16, 5000, generator=generator)
    observes = [
        Observe(sampling=Sampling(0.97, top_p=0.9)),
        Observe(top_k=3, entropy=True),
        Observe(top_k=2, every=True, ids=((4, 5), (6, 7))),
        Observe(entropy=True, sampling=Sampling(0.999, top_k=4000)),
        Observe(sampling=Sampling(0.5, 2.0)),
    ]
    lines = [[5], [0], [2, 3], [1], [4]]
    looks = [observing.Look(observe, line, None, 0) for observe, line in zip(observes, lines, strict=True)]
    found = []
    for pieces, head in ((1 << 30, 5000), (1 << 30, 2), (1, 1), (12_000, 2)):
        monkeypatch.setattr(observing, "IN_CACHE", pieces)
        monkeypatch.setattr(observing, "HEAD", {"cpu": head})
        found.append(observing.read(states, lambda some: some @ rows, looks, torch.tensor([3, 9]), {})[0])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            for name in Observation.__slots__:
                values = [getattr(seen, name) for seen in (one, two)]
                assert (values[0] is None) == (values[1] is None), name
                if values[0] is not None:
                    np.testing.assert_allclose(*values, atol=1e-5, err_msg=name)


def test_the_device_is_not_waited_for_before_everything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors raise where the host would have to know a number of the device."""
    monkeypatch.setattr(probability, "on_host", lambda values: False)
    observes = [
        Observe(top_k=8, entropy=True),
        Observe(sampling=Sampling(0.3, top_p=0.9)),
        Observe(ids=((4, 5), (6, 7)), every=True),
        Observe(sampling=Sampling(0.3, top_k=7), entropy=True),
    ]
    looks = [observing.Look(o, [2 * i, 2 * i + 1][: 1 + o.every], None, 0) for i, o in enumerate(observes)]
    with FakeTensorMode():
        for vocabulary in (50, 40_000):
            states, head = torch.randn(8, 16), torch.nn.Linear(16, vocabulary)
            found, _ = observing.read_distributions(states, head, looks, torch.tensor([3]))
            assert {name: len(values) for name, values in found.items()} == {
                "total": 5, "top_ids": 5, "top_logprobs": 5, "entropy": 2, "asked": 5,
                "sampled_ids": 2, "sampled_logprobs": 2, "sampled_found": 2,
            }  # fmt: skip
            with pytest.raises(DataDependentOutputException):
                bool(found["sampled_found"].all())


def test_a_container_leaves_what_its_limit_leaves(tmp_path: Path) -> None:
    own, service = tmp_path / "cgroup", tmp_path / "groups/system/s2t"
    own.write_text("1:name=systemd:/\n0::/system/s2t\n")
    assert left_in_group(own, tmp_path / "groups") == math.inf
    for group, limit, used in ((service.parent, "9000", 2000), (service, "max", 1000)):
        group.mkdir(parents=True, exist_ok=True)
        for name, text in (("max", limit), ("current", str(used)), ("stat", "anon 5\ninactive_file 300")):
            (group / f"memory.{name}").write_text(f"{text}\n")
    assert left_in_group(own, tmp_path / "groups") == 9000 - 2000 + 300, "the service's own has no limit"
    (service / "memory.max").write_text("1500\n")
    assert left_in_group(own, tmp_path / "groups") == 1500 - 1000 + 300
    assert left_in_group(tmp_path / "none", tmp_path / "groups") == math.inf


def test_nan_logits_are_an_error() -> None:
    model = tiny_model("qwen2")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(S2TError, match="NaN logits"):
        TransformersBackend(model, config=SMALL)


def test_models_that_cannot_roll_back_are_refused_by_layer_type() -> None:
    from transformers import MambaConfig, MambaForCausalLM, Qwen3NextConfig, Qwen3NextForCausalLM

    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4))
    with pytest.raises(S2TError, match="mamba"):
        TransformersBackend(mamba)
    hybrid = Qwen3NextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, linear_num_key_heads=1, linear_num_value_heads=1, linear_key_head_dim=8,
        linear_value_head_dim=8, layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    with pytest.raises(S2TError, match="linear_attention"):
        TransformersBackend(Qwen3NextForCausalLM(hybrid))
