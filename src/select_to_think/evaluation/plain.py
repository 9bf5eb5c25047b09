"""The plain references that the fast paths are timed against: one sequence, the whole text for every token, no cache.

Non-goals: being fast. They say what the methods mean, in the fewest words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from transformers import PreTrainedModel

from select_to_think.evaluation.timing import Cost
from select_to_think.models.verifier_prompt import VerifierPrompt
from select_to_think.models.words import LONGEST, Words
from select_to_think.probability import log_probabilities

Fires = Callable[[torch.Tensor, torch.Tensor, Random], bool]  # log-probabilities of SLM and LLM (V,), the row's coin


@torch.inference_mode()
def run_plain(
    slm: PreTrainedModel,
    llm: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    fires: Fires,
    candidates: int,
    stop_ids: frozenset[int] = frozenset(),
) -> Cost:
    """Time S2T: both models over the whole prefix at every token."""
    start, written = time.perf_counter(), 0
    for number, prompt in enumerate(prompts):
        coin, prefix = Random(str(number)), list(prompt)
        while len(prefix) - len(prompt) < new_tokens and not (len(prefix) > len(prompt) and prefix[-1] in stop_ids):
            ids = torch.tensor([prefix], device=slm.device)
            small, large = (log_probabilities(model(ids, use_cache=False).logits[0, -1]) for model in (slm, llm))
            best = small.topk(candidates).indices
            chosen = int(large[best].argmax()) if fires(small, large, coin) else 0
            prefix.append(int(best[chosen]))
            written += 1
    return Cost(time.perf_counter() - start, written, written)


@dataclass
class PlainMentor:
    """MentorCollab-FREE with the debiased order."""

    slm: PreTrainedModel
    llm: PreTrainedModel
    forbidden: torch.Tensor
    words: Words
    consult_rate: float
    segment_tokens: int
    llm_forwards: int = 0

    def run(self, prompts: Sequence[Sequence[int]], asked: Sequence[VerifierPrompt], new_tokens: int) -> Cost:
        """Time `new_tokens` tokens after each prompt, whatever ends an answer; `asked`: what the verifier is asked."""
        start = time.perf_counter()
        outputs = tuple(
            tuple(self.write(prompt, about, new_tokens, Random(str(number))))
            for number, (prompt, about) in enumerate(zip(prompts, asked, strict=True))
        )
        return Cost(time.perf_counter() - start, sum(map(len, outputs)), self.llm_forwards, outputs=outputs)

    def write(self, prompt: Sequence[int], asked: VerifierPrompt, new_tokens: int, random: Random) -> list[int]:
        """One output."""
        out: list[int] = []
        while len(out) < new_tokens:
            text, room = [*prompt, *out], new_tokens - len(out)
            word = self.word(self.slm, text, room)
            if random.random() < self.consult_rate and (theirs := self.word(self.llm, text, room)) != word:
                ours, theirs = (
                    self.greedy(model, text, min(room, max(self.segment_tokens, len(own))))
                    for model, own in ((self.slm, word), (self.llm, theirs))
                )
                pairs = (ours, theirs), (theirs, ours)
                odds = [self.odds(asked.ids(out, *pair), asked.letters) for pair in pairs]
                word = theirs if odds[0] > odds[1] else ours
            out += word
        return out

    def word(self, model: PreTrainedModel, text: Sequence[int], room: int) -> list[int]:
        """The next word."""
        word = self.greedy(model, text, 1)
        while len(word) < min(room, LONGEST):
            (following,) = self.greedy(model, [*text, *word], 1)
            if not self.words.goes_on(word[-1], following):
                break
            word.append(following)
        return word

    def greedy(self, model: PreTrainedModel, text: Sequence[int], size: int) -> list[int]:
        """The next `size` tokens."""
        tokens = list(text)
        for _ in range(size):
            tokens.append(int(self.next_logprobs(model, tokens).argmax()))
        return tokens[len(text) :]

    def odds(self, ids: Sequence[int], letters: tuple[int, int]) -> float:
        """Log-odds of option B."""
        logprobs = self.next_logprobs(self.slm, ids)
        return float(logprobs[letters[1]] - logprobs[letters[0]])

    @torch.inference_mode()
    def next_logprobs(self, model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
        """(V,) after the whole text."""
        self.llm_forwards += model is self.llm
        ids = torch.tensor([list(tokens)], device=model.device)
        return log_probabilities(model(ids, use_cache=False, logits_to_keep=1).logits[0, -1], self.forbidden)
