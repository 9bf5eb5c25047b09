"""Between a policy that thinks in SLM tokens and an LLM that has others: the policy stays as it is.

`interpret` wraps one run. What the policy asks of the LLM is asked in the LLM's own tokens, and the answer is given in
the SLM's; requests to other models pass. The LLM's context holds its own tokenisation of the same text behind its own
prompt, rolled back to the last common token where appended text changes it; what the LLM itself wrote stays as written.

- *The LLM's choice* (`top_k=1`): the first SLM token in the LLM's greedy text, which is written on until the SLM's
  tokenizer would not go on with that token. What was written beyond it is kept for the next request.
- *Candidates* (`ids`): see `policies/candidates.py`. The choice beside them costs nothing: it is what the LLM's next
  token tells, or the best candidate where that does not tell.

Non-goals: the LLM's whole distribution in SLM tokens, which does not exist: the KL trigger needs one vocabulary.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np

from select_to_think.models.translation import Translation
from select_to_think.policies.candidates import CandidateQuery
from select_to_think.policies.label import Labels
from select_to_think.structures import (
    Branch,
    Extend,
    Generation,
    Observation,
    Observe,
    Requests,
    S2TError,
    Truncate,
    shared_length,
)

R = TypeVar("R", Generation, Labels)
LONGEST_ROLL = 24  # LLM tokens written for one SLM token, at most


def interpret(run: Generator[Requests, Any, R], listener: Listener) -> Generator[Requests, Any, R]:
    """The same run over an LLM with another vocabulary, which `listener` asks; what fails there fails in the run."""
    answer: Any = None
    failure: Exception | None = None
    try:
        while True:
            try:
                request = run.send(answer) if failure is None else run.throw(failure)
            except StopIteration as end:
                result: R = end.value
                return result
            answer, failure = None, None
            try:
                if isinstance(request, tuple):
                    answer = yield from listener.hear_all(request)
                elif isinstance(request, Extend | Branch | Truncate) and request.model == "llm":
                    answer = yield from listener.hear(request)
                else:
                    answer = yield request
            except Exception as error:
                failure = error
    finally:
        run.close()


@dataclass(frozen=True)
class Written:
    """An answer in LLM tokens; those from place `own` on were chosen by the LLM itself."""

    own: int
    ids: tuple[int, ...]
    ends: tuple[int, ...]  # where in `text` each token ends
    logprobs: tuple[float, ...]  # nats; 0 before `own`
    text: bytes

    def followed_by(self, token: int, logprob: float, piece: bytes) -> Written:
        """The same and one token more, chosen by the LLM."""
        text = self.text + piece
        return replace(
            self,
            ids=(*self.ids, token),
            ends=(*self.ends, len(text)),
            logprobs=(*self.logprobs, logprob),
            text=text,
        )

    def continues(self, text: bytes) -> bool:
        """Whether everything known behind `text` is the LLM's own."""
        start = self.ends[self.own - 1] if self.own else 0
        return len(text) >= start and self.text.startswith(text)


@dataclass
class Listener:
    """One sequence: its SLM tokens as the policy has them, and the LLM's context."""

    translation: Translation
    prompt_length: int  # SLM tokens, as the policy was given it
    llm_prompt: tuple[int, ...]  # the same in the LLM's own tokens and template
    room: int  # LLM tokens of its context
    tokens: list[int] = field(default_factory=list)  # SLM tokens, prompt included
    held: tuple[int, ...] = ()  # LLM tokens in the LLM's context
    written: Written | None = None
    settled: list[int] = field(default_factory=list)  # SLM tokens of the answer's words that are complete ...
    rewritten: list[int] = field(default_factory=list)  # ... in LLM tokens

    def hear_all(self, requests: tuple[Extend | Branch, ...]) -> Generator[Requests, Any, list[Observation]]:
        """Answer requests made at once: those to other models first, in one."""
        others = tuple(request for request in requests if request.model != "llm")
        passed = iter((yield others) if others else ())
        answers: list[Any] = []
        for request in requests:
            answers.append((yield from self.hear(request)) if request.model == "llm" else next(passed))
        return answers

    def hear(self, request: Extend | Branch | Truncate) -> Generator[Requests, Any, Observation | None]:
        """Answer a request in SLM tokens."""
        if isinstance(request, Truncate):
            del self.tokens[request.length :]
            return None
        look = request.observe
        known = look and Observe(min(1, look.top_k), ids=look.ids, best_only=look.best_only)
        if isinstance(request, Branch) or look != known:
            raise NotImplementedError("an LLM with another vocabulary tells its choice and scores candidates, no more")
        self.tokens.extend(request.tokens)
        if look is None:
            return None
        if len(self.tokens) < self.prompt_length:
            raise NotImplementedError("an LLM with another vocabulary is asked behind the prompt, not inside it")
        answer = self.tokens[self.prompt_length :]
        return (yield from self.choice(answer) if look.ids is None else self.scores(answer, look.ids[0]))

    def choice(self, answer: Sequence[int]) -> Generator[Requests, Any, Observation]:
        """The LLM's next token behind `answer`, in SLM tokens."""
        text = self.translation.slm.read(answer)
        pieces = self.translation.llm.pieces
        if self.written is None or not self.written.continues(text):
            ids = tuple(self.rewrite(answer))  # chosen by others
            ends = tuple(accumulate(len(pieces[i]) for i in ids))
            self.written = Written(len(ids), ids, ends, (0.0,) * len(ids), text)
        while (found := self.told(self.written, len(text))) is None:
            path = (*self.llm_prompt, *self.written.ids)
            yield from self.hold(path[:-1])
            seen = yield Extend("llm", path[len(self.held) :], Observe(top_k=1))
            self.held = path
            chosen = int(seen.top_ids[0, 0])
            self.written = self.written.followed_by(chosen, float(seen.top_logprobs[0, 0]), pieces[chosen])
        token, logprob = found
        return Observation(np.array([[token]]), np.array([[logprob]], np.float32))

    def told(self, written: Written, start: int) -> tuple[int, float] | None:
        """The SLM token that begins at byte `start` of what the LLM wrote, with the log-probability of the LLM tokens
        that begin in it; None while more must be written to tell."""
        slm, stops = self.translation.slm, self.translation.llm.stops
        first = max(written.own, bisect_right(written.ends, start))
        if first == len(written.ids) > written.own and written.ids[-1] in stops:
            return self.translation.special_to_slm(written.ids[-1]), written.logprobs[-1]
        for i in range(first, len(written.ids)):
            ended = written.ids[i] in stops or i - first + 1 == LONGEST_ROLL
            token = self.translation.first_token(written.text[start : written.ends[i]], ended)
            if token is not None:
                begins = (written.ends[j - 1] if j else 0 for j in range(first, i + 1))
                inside = (start <= place < start + len(slm.pieces[token]) for place in begins)
                return token, sum(v for v, own in zip(written.logprobs[first:], inside, strict=False) if own)
        return None

    def scores(self, answer: Sequence[int], candidates: Sequence[int]) -> Generator[Requests, Any, Observation]:
        """The log-probability of each candidate behind `answer`, and the LLM's choice."""
        path = (*self.llm_prompt, *self.spelled(answer))
        query = CandidateQuery(self.translation, path, len(path) - len(self.llm_prompt), candidates)
        yield from self.hold(path[: query.base])
        yield Extend("llm", path[len(self.held) : query.base])
        self.held = path[: query.base]
        seen = yield Branch("llm", query.leaves, query.observe)
        return query.read(seen)

    def spelled(self, answer: Sequence[int]) -> tuple[int, ...]:
        """The LLM's tokens for the answer so far: its own where it wrote to just there."""
        text = self.translation.slm.read(answer)
        if self.written is not None and self.written.continues(text):
            place = bisect_right(self.written.ends, len(text))
            if place >= self.written.own and self.translation.llm.read(self.written.ids[:place]) == text:
                return self.written.ids[:place]
        return tuple(self.rewrite(answer))

    def rewrite(self, answer: Sequence[int]) -> list[int]:
        """The answer as the LLM's tokenizer writes it; of a text that has grown only the last words anew.

        A word that was complete goes on where what stood behind it was cut off and replaced: then all is written anew.
        """
        known = len(self.settled)
        goes_on = 0 < known < len(answer) and not self.translation.parts(answer[known - 1], answer[known])
        if goes_on or list(answer[:known]) != self.settled:
            self.settled, self.rewritten = [], []
        words = self.translation.words(answer[len(self.settled) :])
        for word in words[:-1]:
            self.settled += word
            self.rewritten += self.translation.rewrite(word)
        return [*self.rewritten, *(self.translation.rewrite(words[-1]) if words else ())]

    def hold(self, path: Sequence[int]) -> Generator[Requests, Any, None]:
        """Roll the LLM's context back to what it has in common with `path`."""
        if len(path) >= self.room:
            raise S2TError(f"the text exceeds the LLM's context of {self.room} tokens: lower --max-new-tokens")
        same = shared_length(self.held, path)
        if same < len(self.held):
            yield Truncate("llm", same)
            self.held = self.held[:same]
