"""How probable the LLM holds an SLM token that its own vocabulary does not have: one branch, and the sum that it gives.

The score of candidate c behind the running text x is

    log P(the LLM's text goes on so that the SLM's tokenizer reads c next | the LLM's text begins with x)

summed over the LLM tokens that can carry the text across the end of c:

- c letter by letter: the LLM's own tokens t1 ... tk of c, behind its tokens of x. If the SLM has a longer token that
  begins with c and that the LLM would write piece by piece (numbers, often), the probability that the LLM's next token
  makes the SLM read that one is taken off again: "14" is not what a model means that goes on with "5".
- across the end of c: behind t1 ... tj, every token that writes the rest of c and more, if the SLM reads c in it.
- across the end of x: behind x without its last one to three LLM tokens, every token that writes those again and more,
  if the SLM reads a boundary at the end of x, and c behind it. So an LLM that would not have cut the text at the end of
  x, as the SLM did, is heard as well (token healing).

With twice the same vocabulary each sum has one term, p_LLM(c | x): the tokens decide, as over a shared vocabulary.

The ends of long candidates are looked at one LLM token ahead, among its `LOOKED_AHEAD` most probable ones.

Cost: one forward, with a leaf of one to three tokens more than the candidate has for each of its LLM tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from select_to_think.models.translation import Tokens, Translation
from select_to_think.structures import Observation, Observe

HEALED = 3  # LLM tokens
LOOKED_AHEAD = 16
QUERY_TOKENS = 16  # that the leaves of a query may have for each candidate, most of them some four


class CandidateQuery:
    """One branch of the LLM that scores candidates.

    The context holds the first `base` tokens of the LLM's text; `leaves` and `observe` are the branch.
    """

    def __init__(self, translation: Translation, path: Tokens, answered: int, candidates: Sequence[int]) -> None:
        """Ask about SLM tokens behind the LLM tokens `path`, of which the last `answered` are not the prompt's."""
        self.translation, self.candidates = translation, candidates
        self.crossing = {}
        for size in range(1, min(HEALED, answered) + 1):
            text = translation.llm.read(path[-size:])
            if not all(translation.llm.pieces[i] for i in path[-size:]):
                break
            if found := translation.going_on(b"", text, len(text)):
                self.crossing[size] = found
        self.base = len(path) - max(self.crossing, default=0) - 1
        self.tail = path[self.base :]
        asked = Asked(self.tail)
        self.log_scores(asked)
        self.lines = {leaf: line for line, leaf in enumerate(asked.tokens)}
        self.leaves = list(self.lines)
        self.asked = [tuple(tokens) for tokens in asked.tokens.values()]
        width = max(1, *map(len, self.asked))
        padded = tuple((*tokens, *[0] * (width - len(tokens))) for tokens in self.asked)
        self.observe = Observe(top_k=LOOKED_AHEAD if asked.ahead else 1, ids=padded)

    def read(self, seen: Observation) -> Observation:
        """The candidates' log-probabilities, and the LLM's choice: what its next token tells, or the best candidate
        where that may still become several tokens of the SLM."""
        scores = np.array([self.log_scores(Seen(self, seen))], np.float32)
        line = self.lines[self.tail]
        top = int(seen.top_ids[line, 0])
        if piece := self.translation.llm.pieces[top]:
            told = self.translation.first_token(piece, ended=False)
            choice = self.candidates[int(scores.argmax())] if told is None else told
        else:
            choice = self.translation.special_to_slm(top)
        return Observation(np.array([[choice]]), seen.top_logprobs[line : line + 1, :1], asked_logprobs=scores)

    def log_scores(self, look: Asked | Seen) -> list[float]:
        """The scores, in nats."""
        shares = {size: self.share(size, look) for size in self.crossing}
        whole = 1 + sum(
            share * look.p(self.cut(size), token)
            for size, share in shares.items()
            for tokens in self.crossing[size].values()
            for token in tokens
        )
        scores = []
        for candidate in self.candidates:
            total = self.behind(candidate, look) + sum(
                share * look.p(self.cut(size), token)
                for size, share in shares.items()
                for token in self.crossing[size].get(candidate, ())
            )
            scores.append(math.log(total / whole) if total > 0 else -math.inf)
        return scores

    def behind(self, candidate: int, look: Asked | Seen) -> float:
        """Probability that the LLM goes on with a candidate behind its own tokens of the running text."""
        translation, data = self.translation, self.translation.slm.pieces[candidate]
        if not data:
            return sum(look.p(self.tail, token) for token in translation.special_to_llm(candidate))
        reached, total, head = 1.0, 0.0, b""
        leaf = self.tail
        for token in translation.llm.write(data):
            longer = translation.going_on(head, data[len(head) :], 0).get(candidate, ())
            total += reached * sum(look.p(leaf, other) for other in longer)
            reached *= look.p(leaf, token)
            leaf, head = (*leaf, token), head + translation.llm.pieces[token]
        if translation.open_ended(data):
            taken = sum(p for token, p in look.likely(leaf) if self.takes(data, token, candidate))
            reached *= max(0.0, 1 - taken)
        return total + reached

    def takes(self, data: bytes, token: int, candidate: int) -> bool:
        """Whether the SLM no longer reads `candidate` when `token` goes on behind it."""
        return self.translation.token_at(data + self.translation.llm.pieces[token], 0) != candidate

    def cut(self, size: int) -> Tokens:
        """The running text without its last `size` tokens."""
        return self.tail[: len(self.tail) - size]

    def share(self, size: int, look: Asked | Seen) -> float:
        """1 / the probability of the last `size` tokens of the running text behind the others."""
        reached = math.prod(look.p(self.cut(n), self.tail[len(self.tail) - n]) for n in range(size, 0, -1))
        return 1 / reached if reached else 0.0


class Asked:
    """Stands in for the LLM to find out what will be asked."""

    def __init__(self, root: Tokens) -> None:
        self.tokens: dict[Tokens, dict[int, None]] = {root: {}}
        self.ahead = False

    def p(self, leaf: Tokens, token: int) -> float:
        self.tokens.setdefault(leaf, {})[token] = None
        return 1.0

    def likely(self, leaf: Tokens) -> Iterable[tuple[int, float]]:
        self.tokens.setdefault(leaf, {})
        self.ahead = True
        return ()


class Seen:
    """The LLM's answer to a query: its distributions behind the leaves of the branch."""

    def __init__(self, query: CandidateQuery, seen: Observation) -> None:
        self.lines, self.seen = query.lines, seen
        self.places = [{token: place for place, token in enumerate(tokens)} for tokens in query.asked]

    def p(self, leaf: Tokens, token: int) -> float:
        """Probability of `token` behind a leaf."""
        line = self.lines[leaf]
        return math.exp(self.seen.asked_logprobs[line, self.places[line][token]])

    def likely(self, leaf: Tokens) -> Iterable[tuple[int, float]]:
        """The most probable tokens behind a leaf, with their probabilities."""
        line = self.lines[leaf]
        return zip(map(int, self.seen.top_ids[line]), np.exp(self.seen.top_logprobs[line]).tolist(), strict=True)
