"""MentorCollab (arXiv 2602.05307): now and then the LLM, as mentor, is asked for the next word.

The SLM writes word by word. At a random fraction of the words the mentor writes the next word too. If it is the same,
the SLM goes on; if not, both write a short segment from there, and a verifier takes one of them. `mentor-free`,
`mentor-mlp` and the control `mentor-coin` differ only in the verifier.

Both models write greedily. Tokens on which both segments agree are the SLM's own; the others count, and are traced, as
tokens of the one whose segment was taken.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from select_to_think.models.words import Words
from select_to_think.policies.base import Answer, Limits, Policy, Task
from select_to_think.policies.greedy_draft import GreedyDraft
from select_to_think.structures import (
    Counts,
    ModelUnavailable,
    PolicyRun,
    Requests,
    StepRecord,
    shared_length,
)
from select_to_think.verifiers.base import Dispute, Follower, Verifier


@dataclass(frozen=True)
class Mentor(Policy):
    """Decode with the SLM; at a fraction `consult_rate` of the words, ask the mentor."""

    limits: Limits
    words: Words
    verifier: Verifier
    consult_rate: float
    segment_tokens: int  # of a segment, unless its word is longer
    goes_on: bool = False  # with the SLM's word where the mentor is not reached
    guesses: bool = True  # show the mentor the SLM's word: agreeing costs one forward; needs one vocabulary
    begun: int = 0  # tokens of the answer that stand in the prompt already

    @property
    def leaf_tokens(self) -> int:
        """Room for what the verifier is shown beyond the answer."""
        longest = max(self.segment_tokens, self.words.longest)
        return self.verifier.room(min(longest, self.limits.max_new_tokens))

    def about(self, task: Task) -> Mentor:
        """This policy for answers to the task's question."""
        return replace(self, verifier=self.verifier.about(task.question), begun=task.begun)

    def run(self, prompt: Sequence[int], seed: str) -> PolicyRun:
        """Decode; consultations (and coins) are drawn from `seed`."""
        random, counts, text = Random(seed), Counts(), list(prompt)
        told = self.limits if self.guesses else replace(self.limits, alternatives=0)  # other words say only their best
        slm, mentor = GreedyDraft("slm", text, self.limits), GreedyDraft("llm", text, told)
        context = Follower()
        answer = Answer(self.limits)
        while room := answer.room:
            word = yield from self.word(slm, room)
            settled, judged = slm.draft[:word], None
            if random.random() < self.consult_rate:
                counts.consultations += 1
                segment = yield from self.contradiction(mentor, slm.tokens(word), room)
                if segment is None:
                    settled[0] = replace(settled[0], llm_failed=True)
                elif segment:
                    yield from slm.write(longest := min(room, max(word, self.segment_tokens)))
                    dispute = Dispute(text[len(prompt) - self.begun :], slm.tokens(longest), mentor.tokens(segment))
                    margin = yield from self.verifier.margin(dispute, context, random)
                    settled, judged = decide(slm.draft[:longest], mentor.draft[:segment], margin), (dispute, margin)
            commit = answer.add(*settled)
            if judged is not None:
                count(counts, *judged, len(commit.steps))
            yield commit
            tokens = [step.token for step in commit.steps]
            text += tokens
            for draft in (slm, mentor):
                yield from draft.settle(tokens)
        return answer.finish(counts)

    def word(self, draft: GreedyDraft, room: int) -> Generator[Requests, Any, int]:
        """Let a model write its next word, of at most `room` tokens; returns its length."""
        yield from draft.write(1)
        size = 1
        while size < min(room, self.words.longest) and draft.draft[size - 1].token not in self.words.ends:
            yield from draft.write(size + 1)
            if not self.words.goes_on(*draft.tokens(size + 1)[-2:]):
                break
            size += 1
        return size

    def contradiction(
        self, mentor: GreedyDraft, word: tuple[int, ...], room: int
    ) -> Generator[Requests, Any, int | None]:
        """The mentor writes: the length of its segment if it begins with another word than `word`, else 0.

        None where it is not reached.
        """
        try:
            if self.guesses:
                yield from mentor.guess(word)
            size = yield from self.word(mentor, room)
            if self.words.same(mentor.tokens(size), word):
                return 0
            yield from mentor.write(size := min(room, max(size, self.segment_tokens)))
        except ModelUnavailable:
            if not self.goes_on:
                raise
            return None
        return min(size, len(mentor.draft))


def decide(slm: Sequence[StepRecord], mentor: Sequence[StepRecord], margin: float) -> list[StepRecord]:
    """The steps of the segment that a margin takes. The first one in dispute holds both segments, each with the
    verifier's probability that it is the better one; `candidate_logprobs` are each model's own."""
    tokens = [tuple(each.token for each in draft) for draft in (slm, mentor)]
    same = shared_length(*tokens)
    trust = (1 + math.tanh(margin / 2)) / 2  # sigmoid, without overflow
    options = [
        (draft[same], segment[same:], score)
        for draft, segment, score in zip((slm, mentor), tokens, (1 - trust, trust), strict=True)
        if len(draft) > same
    ]
    rest = list((mentor if margin > 0 else slm)[same:])
    if rest:
        rest[0] = replace(
            rest[0],
            greedy_token=slm[same].token if len(slm) > same else None,
            fired=True,
            candidates=tuple(first.token for first, _, _ in options),
            candidate_logprobs=tuple(first.logprob for first, _, _ in options),
            scores=tuple(score for _, _, score in options),
            segments=tuple(segment for _, segment, _ in options),
        )
    return [*slm[:same], *rest]


def count(counts: Counts, dispute: Dispute, margin: float, kept: int) -> None:
    """Enter a decided dispute; tokens on which both agreed are the SLM's, and of a segment that ended the answer only
    the first `kept` are part of it.
    """
    disputed = len(dispute.mentor) - dispute.agreed
    counts.disagreements += 1
    if margin > 0:
        accepted = max(0, kept - dispute.agreed)
        counts.mentor_choices += 1
        counts.mentor_tokens_accepted += accepted
        counts.llm_tokens_generated += accepted
        counts.mentor_tokens_rejected += disputed - accepted
    else:
        counts.mentor_tokens_rejected += disputed
