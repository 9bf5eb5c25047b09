"""MentorCollab's laws: the policy equals the plain definition, pays for no token twice, and outlives its mentor."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from drive import SMALL, backends_of, results_of
from select_to_think.contexts.transformers_backend import TransformersBackend
from select_to_think.evaluation import plain
from select_to_think.evaluation.plain import PlainModel
from select_to_think.models.words import LONGEST, Words
from select_to_think.policies.base import Limits
from select_to_think.policies.greedy import Greedy
from select_to_think.policies.mentor import Mentor, count
from select_to_think.structures import Counts, Generation, ModelUnavailable, Observation, Role, S2TError
from select_to_think.verifiers.base import Dispute, Follower
from select_to_think.verifiers.coin import CoinVerifier
from select_to_think.verifiers.free import FreeVerifier
from tiny import tiny_model

STOP = frozenset({2, 20})
LIMITS = Limits(STOP, 24)
PROMPTS = [list(range(3, 3 + n)) for n in (3, 17, 1, 30)]
STARTS = frozenset(range(0, 64, 3)) | STOP
WORDS = Words(STARTS, STOP | {7, 8})
RATE, SEGMENT = 0.6, 6


@dataclass(frozen=True)
class Asked:
    """A prompt without text: marks around tokens."""

    letters: tuple[int, int] = (11, 12)
    question: int = 40
    longest: int = 512
    options: list[int] = field(default_factory=list)  # lengths of what follows the text in each prompt

    def about(self, question: str) -> Asked:
        return replace(self, question=int(question))

    def ids(self, before: Sequence[int], first: Sequence[int], second: Sequence[int]) -> list[int]:
        behind = [42, *first, 43, *second, 44, 45]
        self.options.append(len(behind))
        return [self.question, 41, *before, *behind]


@dataclass(frozen=True)
class Always:
    """Takes one side."""

    side: float

    def about(self, question: str) -> Always:
        return self

    def margin(self, dispute: Dispute, context: Follower, random: Random) -> Generator[Any, Any, float]:
        yield from ()
        return self.side


FREE = FreeVerifier(Asked(), "debiased")


def policy(verifier: Any = FREE, rate: float = RATE, segment: int = SEGMENT, words: Words = WORDS) -> Mentor:
    return Mentor(LIMITS, words, verifier, rate, segment, goes_on=True)


def run(policy, pair, max_rows=4, seed="seed/{}", **replaced: TransformersBackend) -> list[Generation]:
    backends: dict[str, Any] = {**backends_of(pair), **replaced}
    roles = {"slm": Role("slm"), "llm": Role("llm"), "verifier": Role("judge" if "judge" in backends else "slm")}
    runs = (policy.run(p, seed.format(i)) for i, p in enumerate(PROMPTS))
    return results_of(backends, runs, rows=max_rows, roles=roles)


def tokens(results: list[Generation]) -> list[list[int]]:
    return [list(result.tokens) for result in results]


def make_pair(arch: str) -> dict[str, Any]:
    """Two models that agree on many tokens: the LLM is the SLM with other numbers in the head."""
    slm, llm = tiny_model(arch), tiny_model(arch)
    torch.manual_seed(5)
    with torch.no_grad():
        head = llm.get_output_embeddings().weight
        head.add_(0.7 * head.std() * torch.randn_like(head))
    return {"slm": slm, "llm": llm}


@pytest.fixture(params=["qwen2", "gemma3"])
def pair(request):
    return make_pair(request.param)


@pytest.fixture
def qwen():
    return make_pair("qwen2")


@pytest.mark.parametrize("order", ["ab", "debiased"])
def test_it_is_the_plain_definition(pair, order) -> None:
    prompt = Asked()

    def free(out: list[int], ours: list[int], theirs: list[int]) -> bool:
        asked = [prompt.ids(out, ours, theirs), prompt.ids(out, theirs, ours)][: 1 if order == "ab" else 2]
        return plain.free_margin(PlainModel(pair["slm"]), asked, prompt.letters) > 0

    results = run(policy(FreeVerifier(prompt, order)), pair)
    expected = [
        plain.mentor(*map(PlainModel, pair.values()), p, 24, set(STOP), WORDS, RATE, SEGMENT, Random(f"seed/{i}"), free)
        for i, p in enumerate(PROMPTS)
    ]
    assert tokens(results) == expected
    unasked = run(replace(policy(FreeVerifier(prompt, order)), guesses=False), pair)
    assert tokens(unasked) == expected, "guessing the mentor's word changes nothing"
    guessed, written = (sum(r.counts.llm_forwards for r in each) for each in (results, unasked))
    assert guessed < written
    agreed = run(policy(Always(1.0), 1.0), {"slm": pair["llm"], "llm": pair["llm"]})
    assert all(r.counts.llm_forwards <= r.counts.consultations and not r.counts.disagreements for r in agreed)
    choices = sum(r.counts.mentor_choices for r in results)
    assert 0 < choices < sum(r.counts.disagreements for r in results), "the law says nothing without both choices"


@pytest.mark.parametrize("ask", [1, 2, 3])
def test_a_mentor_that_comes_back_is_shown_what_it_would_have_been(qwen, ask: int) -> None:
    """Whether or not it was being guessed when it was away."""

    class Away(TransformersBackend):
        asked = 0

        def submit(self, request: Any) -> None:
            self.asked += 1
            if self.asked == ask:
                request.answer = ModelUnavailable("no answer")
                self.waiting.append(request)
            else:
                super().submit(request)

    results = []
    for guesses in (True, False):
        mentor = Away(qwen["llm"], config=SMALL, cost=20.0)
        results.append(run(replace(policy(Always(1.0), rate=1.0), guesses=guesses), qwen, max_rows=1, llm=mentor))
    assert tokens(results[0][:1]) == tokens(results[1][:1])
    assert results[0][0].counts.llm_failures == 1


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_mentor_is_asked_at_the_wanted_share_of_words(rate: float) -> None:
    """Over 25 000 words of one token each, on which both models agree: one standard error is at most 0.0032."""
    always = Observation(top_ids=np.array([[7]]), top_logprobs=np.array([[0.0]], np.float32))
    asked = Mentor(Limits(frozenset(), 100), WORDS, Always(1.0), rate, SEGMENT, guesses=False)
    counts = [play(asked.run([3], f"seed/{n}"), always).counts for n in range(250)]
    assert sum(each.consultations for each in counts) / 25_000 == pytest.approx(rate, abs=0.008)
    assert not any(each.disagreements for each in counts)


def play(run: Any, observation: Observation) -> Generation:
    """The end of a policy to which every model answers the same."""
    reply = None
    while True:
        try:
            request = run.send(reply)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        reply = observation if getattr(request, "observe", None) else None


def test_without_consultations_it_is_slm_greedy(pair) -> None:
    results = run(policy(rate=0.0), pair)
    assert tokens(results) == tokens(run(Greedy(LIMITS), pair))
    assert all(r.counts.llm_forwards == r.counts.consultations == 0 for r in results)


@pytest.mark.parametrize("segment", [1, 5])
def test_always_consulted_and_always_right_the_mentor_writes_the_answer(pair, segment) -> None:
    results = run(policy(Always(1.0), 1.0, segment), pair)
    assert tokens(results) == tokens(run(Greedy(LIMITS, model="llm"), pair))
    assert any(r.counts.disagreements < r.counts.consultations for r in results)
    never = run(policy(Always(-1.0), 1.0, segment), pair)
    assert tokens(never) == tokens(run(Greedy(LIMITS), pair))


@pytest.mark.parametrize("verifier", [FREE, FreeVerifier(Asked(), "ab"), CoinVerifier()])
def test_batch_size_and_neighbours_change_nothing(verifier) -> None:
    pair = make_pair("gemma3")
    alone, together = (run(policy(verifier), pair, rows) for rows in (1, 3))
    assert [(r.tokens, r.counts, r.finish_reason) for r in together] == [
        (r.tokens, r.counts, r.finish_reason) for r in alone
    ]
    other = run(policy(verifier), pair, seed="other/{}")
    assert tokens(other) != tokens(alone), "the seed decides when the mentor is asked"


def test_no_token_is_paid_twice(qwen) -> None:
    """A model reads the text once, the mentor beside it only the tokens of its own that were not taken.

    Guessing trades reading a word that is wrong for a forward per token of one that is right.
    """
    for side in (-1.0, 1.0):
        results = run(replace(policy(Always(side), 0.8), guesses=False), qwen)
        assert sum(r.counts.disagreements for r in results) > 5
        for prompt, result in zip(PROMPTS, results, strict=True):
            counts, read = result.counts, len(prompt) + len(result.tokens) - 1
            if side < 0:
                assert counts.slm_tokens_processed == read
                assert counts.llm_tokens_processed <= read + counts.mentor_tokens_rejected
            else:
                assert counts.llm_tokens_processed <= read
                assert counts.slm_tokens_processed <= read + counts.mentor_choices * (SEGMENT + LONGEST)


class Recording(TransformersBackend):
    """Adds up what its contexts have read."""

    processed = 0

    def forward(self, plan) -> None:
        self.processed += plan.tokens
        super().forward(plan)


def test_the_verifier_reads_the_text_once(qwen) -> None:
    """Beside the text, a question costs what follows the text, in both orders, however long the text is."""
    prompt, backend = Asked(), Recording(qwen["slm"], config=SMALL)
    results = run(policy(FreeVerifier(prompt, "debiased"), 1.0), qwen, judge=backend)
    disputes = sum(r.counts.disagreements for r in results)
    assert len(prompt.options) == 2 * disputes > 10
    assert backend.processed <= sum(2 + len(r.tokens) for r in results) + sum(prompt.options)


def test_tokens_are_counted_and_traced_as_tokens(qwen) -> None:
    results = run(policy(), qwen)
    assert any(len(step.decided) > 1 for r in results for step in r.steps)
    for result in results:
        by_mentor = [step for step in result.steps if step.chooser == "llm"]
        assert result.counts.llm_tokens_generated == result.counts.mentor_tokens_accepted == len(by_mentor)
        fired = [(i, step) for i, step in enumerate(result.steps) if step.fired]
        assert result.flip_count == result.counts.mentor_choices
        for i, step in fired:
            end = i + len(step.decided)
            assert result.tokens[i:end] == step.decided == step.segments[step.candidates.index(step.token)]
            assert {s.chooser for s in result.steps[i:end]} == {step.chooser}
            assert len(step.segments) == len(step.scores) <= 2
            assert sum(step.scores) == pytest.approx(1.0) or len(step.scores) == 1
            assert (step.chooser == "llm") == (step.scores[-1] > 0.5) or len(step.scores) == 1
    counts = Counts()
    count(counts, Dispute((3,), (5, 6), (5, 7, 8)), 1.0, 3)
    assert counts.llm_tokens_generated == counts.mentor_tokens_accepted == 2, "what both wrote is the SLM's"
    count(counts, Dispute((3,), (5, 6), (5, 7, 8)), 1.0, 2)  # which ended the answer
    assert (counts.mentor_tokens_accepted, counts.mentor_tokens_rejected) == (3, 1)


class Flaky(TransformersBackend):
    """Fails at every `every`-th request, after it has answered the others of the batch."""

    def __init__(self, model, every: int) -> None:
        super().__init__(model, config=SMALL, cost=20.0)
        self.every, self.asked = every, 0

    def submit(self, ask) -> None:
        self.asked += 1
        if self.asked % self.every:
            super().submit(ask)
        else:
            ask.answer = ModelUnavailable("no answer")
            self.waiting.append(ask)


def test_the_slm_goes_on_alone_when_the_mentor_fails(qwen) -> None:
    dead = run(policy(rate=1.0), qwen, llm=Flaky(qwen["llm"], 1))
    assert tokens(dead) == tokens(run(Greedy(LIMITS), qwen))
    assert all(r.counts.llm_failures == r.counts.consultations > 0 == r.counts.llm_tokens_generated for r in dead)
    flaky = run(policy(Always(1.0), rate=1.0), qwen, llm=Flaky(qwen["llm"], 20))
    for result in flaky:
        assert result.finish_reason == "stop" or len(result.tokens) == 24
        assert result.counts.llm_failures <= result.counts.consultations
    assert all(sum(getattr(r.counts, name) for r in flaky) for name in ("llm_failures", "mentor_choices"))
    with pytest.raises(ModelUnavailable):
        run(replace(policy(rate=1.0), goes_on=False), qwen, llm=Flaky(qwen["llm"], 20))


def test_a_verifier_that_cannot_say_leaves_the_slms_segment(qwen) -> None:
    found = run(policy(Always(0.0), rate=1.0), qwen)
    assert tokens(found) == tokens(run(Greedy(LIMITS), qwen)) and any(step.fired for r in found for step in r.steps)


def test_a_policy_that_needs_its_model_ends_with_the_error(qwen) -> None:
    with pytest.raises(S2TError, match="no answer"):
        run(Greedy(LIMITS, model="llm"), qwen, llm=Flaky(qwen["llm"], 3))


def test_a_word_without_end_is_cut(qwen) -> None:
    endless = Words(frozenset(), frozenset())
    limits = Limits(frozenset(), 100)
    results = run(Mentor(limits, endless, Always(1.0), 1.0, 1), qwen)
    assert all(r.counts.consultations == 4 for r in results)
