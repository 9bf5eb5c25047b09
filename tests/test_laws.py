"""The laws of the design: every fast path equals the plainest possible definition, token for token."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from statistics import median

import pytest
import torch

import reference
from drive import backends_of, results_of
from select_to_think.policies.base import Limits
from select_to_think.policies.block_verified import BlockVerified, next_block
from select_to_think.policies.greedy import Greedy
from select_to_think.policies.label import Label
from select_to_think.policies.majority import MajorityVote, decided, winners
from select_to_think.policies.sample import Sample
from select_to_think.policies.select import Select
from select_to_think.selectors.llm import LLMSelector
from select_to_think.structures import Generation, StepRecord
from select_to_think.triggers.entropy import ENTROPY
from select_to_think.triggers.kl import KL
from select_to_think.triggers.margin import MARGIN
from select_to_think.triggers.random import coin
from tiny import ARCHITECTURES, tiny_model

LIMITS = Limits(frozenset({2}), 24)
PROMPTS = [list(range(3, 3 + n)) for n in (3, 17, 1, 30, 9)]
FORBIDDEN = (0, 1, 60)
THRESHOLD = 0.08  # of these random pairs: fires on about half of the steps


def run(policy, models, max_rows=4, prompts=PROMPTS, forbidden=()):
    runs = (policy.run(p, f"seed/{i}") for i, p in enumerate(prompts))
    return results_of(backends_of(models, forbidden=forbidden), runs, rows=max_rows, copies=getattr(policy, "n", 0))


def tokens(results):
    return [list(r.tokens) for r in results]


@pytest.fixture(params=ARCHITECTURES)
def pair(request):
    return {"slm": tiny_model(request.param), "llm": tiny_model(request.param, seed=1, layers=3)}


def test_greedy_is_transformers_greedy(pair) -> None:
    for prompt, result in zip(PROMPTS, run(Greedy(LIMITS), pair), strict=True):
        ids = torch.tensor([prompt])
        out = pair["slm"].generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, eos_token_id=2, pad_token_id=0
        )
        assert list(result.tokens) == out[0, len(prompt) :].tolist()
        assert result.finish_reason == ("stop" if result.tokens[-1] == 2 else "length")


def test_block_verified_kl_is_step_by_step_kl_is_the_plain_definition(pair) -> None:
    plain = Select(LIMITS, KL.at(THRESHOLD), LLMSelector(), 8)
    block = BlockVerified(LIMITS, KL.at(THRESHOLD), LLMSelector(), 8)
    stepwise, verified = run(plain, pair), run(block, pair)
    assert tokens(stepwise) == tokens(verified)
    expected = [reference.select_to_think(pair["slm"], pair["llm"], p, 24, {2}, THRESHOLD, 8, 64) for p in PROMPTS]
    assert tokens(verified) == expected
    assert sum(r.flip_count for r in verified) > 5, "the law says nothing without flips"
    for a, b in zip(stepwise, verified, strict=True):
        assert [(s.fired, s.candidates, s.chooser) for s in a.steps] == [
            (s.fired, s.candidates, s.chooser) for s in b.steps
        ]
        assert [s.statistic for s in a.steps] == pytest.approx([s.statistic for s in b.steps], abs=1e-5)
        assert b.counts.llm_forwards <= a.counts.llm_forwards


def test_takeover_block_verified_equals_plain(pair) -> None:
    policy = BlockVerified(LIMITS, KL.at(THRESHOLD), LLMSelector(takeover=True), 8)
    expected = [
        reference.select_to_think(pair["slm"], pair["llm"], p, 24, {2}, THRESHOLD, 8, 64, takeover=True)
        for p in PROMPTS
    ]
    assert tokens(run(policy, pair)) == expected


@pytest.mark.parametrize("form", [Select, BlockVerified])
def test_never_is_slm_greedy_and_always_takeover_is_llm_greedy(pair, form) -> None:
    never = form(LIMITS, KL.at(math.inf), LLMSelector(takeover=True), 8)
    assert tokens(run(never, pair)) == tokens(run(Greedy(LIMITS), pair))
    always = form(LIMITS, KL.at(-math.inf), LLMSelector(takeover=True), 8)
    llm = run(Greedy(LIMITS, model="llm"), pair)
    results = run(always, pair)
    assert tokens(results) == tokens(llm)
    assert [r.counts.llm_tokens_generated for r in results] == [len(r.tokens) for r in results]


def test_whole_vocabulary_makes_s2t_takeover() -> None:
    models = {"slm": tiny_model("qwen2"), "llm": tiny_model("qwen2", seed=1)}
    s2t = Select(LIMITS, KL.at(THRESHOLD), LLMSelector(), 64)
    takeover = Select(LIMITS, KL.at(THRESHOLD), LLMSelector(takeover=True), 64)
    assert tokens(run(s2t, models)) == tokens(run(takeover, models))
    assert run(s2t, models)[0].counts.llm_tokens_generated == 0


def test_the_choice_lies_in_the_candidates_and_is_the_llms_best_of_them() -> None:
    models = {"slm": tiny_model("qwen2"), "llm": tiny_model("qwen2", seed=1)}
    for kind in (ENTROPY.at, MARGIN.at, coin, KL.at):
        probe = run(Select(LIMITS, kind(math.inf), LLMSelector(), 4), models, forbidden=FORBIDDEN)
        trigger = kind(median(step.statistic for r in probe for step in r.steps))
        results = run(Select(LIMITS, trigger, LLMSelector(), 4), models, forbidden=FORBIDDEN)
        fired = [step for r in results for step in r.steps if step.fired]
        assert fired and any(not step.fired for r in results for step in r.steps), trigger
        for step in fired:
            assert step.token in step.candidates and len(step.candidates) == 4
            assert step.scores[step.candidates.index(step.token)] == max(step.scores)
            assert step.candidates[0] == step.greedy_token
        assert not {token for r in results for token in r.tokens} & set(FORBIDDEN)


def test_lazy_llm_context_equals_eager_one() -> None:
    models = {"slm": tiny_model("qwen2"), "llm": tiny_model("qwen2", seed=1)}
    policy = Select(LIMITS, coin(0.7), LLMSelector(), 8)
    results = run(policy, models)
    assert 0 < sum(r.fired_count for r in results) < sum(len(r.tokens) for r in results)
    for prompt, result in zip(PROMPTS, results, strict=True):
        for i, step in enumerate(result.steps):
            if step.fired:
                prefix = [*prompt, *result.tokens[:i]]
                assert step.llm_top_token == int(reference.next_logprobs(models["llm"], prefix).argmax())
        assert result.counts.llm_forwards == result.fired_count
        last = max((i for i, s in enumerate(result.steps) if s.fired), default=-len(prompt))
        assert result.counts.llm_tokens_processed == len(prompt) + last


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_batch_size_and_neighbours_change_nothing(rows: int) -> None:
    models = {"slm": tiny_model("gemma3"), "llm": tiny_model("gemma3", seed=1)}
    sample = Sample(LIMITS, 0.9, 0.9, 20, 0.01)
    policies = [
        Greedy(LIMITS),
        sample,
        MajorityVote(sample, 4, extract=lambda t: str(t[-1] % 3)),
        Select(LIMITS, coin(0.7), LLMSelector(), 8),
        BlockVerified(LIMITS, KL.at(THRESHOLD), LLMSelector(), 8),
    ]
    for policy in policies:
        alone = [run(policy, models, 1, [p])[0] for p in PROMPTS]  # each is row 0 of its own runtime
        seeds = [policy.run(p, "seed/0") for p in PROMPTS]
        together = results_of(backends_of(models), seeds, rows=rows, copies=getattr(policy, "n", 0))
        assert tokens(together) == tokens(alone)
        assert [r.counts for r in together] == [r.counts for r in alone]


def test_samples_follow_the_distribution() -> None:
    model = tiny_model("qwen2")
    prompt = [3, 4, 5]
    one = Limits(frozenset(), 1)
    policy = Sample(one, 0.7, 0.8, 10, 0.0)
    n = 3000
    draws = results_of(backends_of({"slm": model}), (policy.run(prompt, f"{i}") for i in range(n)), rows=64)
    counts = Counter(int(g.tokens[0]) for g in draws)
    p = (reference.next_logprobs(model, prompt) / 0.7).softmax(-1)
    order = p.argsort(descending=True)[:10]
    kept = p[order] / p[order].sum()
    kept = kept[(kept.cumsum(0) - kept) < 0.8]
    expected = (kept / kept.sum()).tolist()
    assert set(counts) <= set(order[: len(expected)].tolist())
    for token, q in zip(order.tolist(), expected, strict=False):
        assert abs(counts[token] / n - q) < 4 * math.sqrt(q * (1 - q) / n)


def test_majority_vote_is_a_true_vote_and_early_stop_keeps_the_answer() -> None:
    models = {"slm": tiny_model("qwen2")}
    sample = Sample(LIMITS, 1.0, 1.0, 0, 0.0)

    def extract(t):
        return None if t[0] % 5 == 0 else str(t[0] % 3)

    full = MajorityVote(sample, 7, early_stop=False, extract=extract)
    early = replace(full, early_stop=True)
    mixed = 0
    for i, (a, b) in enumerate(zip(run(full, models), run(early, models), strict=True)):
        samples = [single(models, sample, PROMPTS[i], f"seed/{i}/{j}") for j in range(7)]
        said = [(extract(s.tokens), s) for s in samples if extract(s.tokens) is not None]
        votes = [(v, s) for v, s in said if s.finish_reason != "length"]
        mixed += 0 < len(votes) < len(said)
        votes = votes or said
        assert sorted(a.votes) == sorted(v for v, _ in votes)
        tally = {v: (sum(x == v for x, _ in votes), sum(s.logprob for x, s in votes if x == v)) for v, _ in votes}
        if tally:
            assert extract(a.tokens) == max(tally, key=lambda v: tally[v]) == extract(b.tokens)
            assert a.tokens == max((s for v, s in votes if v == extract(a.tokens)), key=lambda s: s.logprob).tokens
        assert b.counts.slm_tokens_processed <= a.counts.slm_tokens_processed
        paid = len(PROMPTS[i]) - 1 + sum(len(s.tokens) for s in samples)
        assert a.counts.slm_tokens_processed == paid, "the prompt is paid once"
    assert mixed, "some prompt has samples that end and samples that are cut off"


def test_a_vote_is_decided_when_nobody_can_draw_level_and_the_more_probable_samples_break_a_tie() -> None:
    def sample(logprob: float) -> Generation:
        return Generation((5,), "stop", (StepRecord(5, logprob, 5),))

    votes = {"x": [sample(-1.0), sample(-9.0)], "y": [sample(-3.0)]}
    assert decided(votes, 0) and not decided(votes, 1)
    votes["y"].append(sample(-4.0))
    assert winners(votes) == votes["y"] and not decided(votes, 0)


def single(models, policy, prompt, seed):
    return results_of(backends_of(models), [policy.run(prompt, seed)])[0]


def test_labels_are_what_the_steps_saw() -> None:
    models = {"slm": tiny_model("llama"), "llm": tiny_model("llama", seed=1)}
    stepwise = run(Select(LIMITS, KL.at(THRESHOLD), LLMSelector(), 8), models)
    entropies = run(Select(LIMITS, ENTROPY.at(math.inf), LLMSelector(), 8), models)
    for results, trigger in ((stepwise, "kl"), (entropies, "entropy")):
        policy = Label(64, with_llm=True, hidden=True)
        runs = (policy.run(PROMPTS[i], r.tokens) for i, r in enumerate(results))
        labels = results_of(backends_of(models), runs, rows=3)
        for i, r in enumerate(results):
            assert labels[i].statistics[trigger].tolist() == pytest.approx([s.statistic for s in r.steps], abs=1e-5)
            assert labels[i].slm_ids[:, 0].tolist() == [s.greedy_token for s in r.steps]
            assert labels[i].hidden.shape == (len(r.tokens), 32)


def test_children_of_a_finished_parent_are_stopped() -> None:
    models = {"slm": tiny_model("qwen2")}
    decided_at_once = MajorityVote(
        Sample(Limits(frozenset(range(64)), 40), 1.0, 1.0, 0, 0.0), 3, extract=lambda t: "same"
    )
    result = run(decided_at_once, models, prompts=[[3, 4]])[0]
    assert len(result.votes) == 2 and result.counts.slm_tokens_processed == 1 + 3


def test_block_sizes_stay_in_their_bounds() -> None:
    assert next_block(16, 16, False) == 32 and next_block(32, 32, False) == 32
    assert next_block(32, 1, True) == 12 and next_block(32, 10, True) == 20
