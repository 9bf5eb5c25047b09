"""The plain definitions of the methods: one sequence, the whole text read anew for every token, no cache.

Fast paths are compared with them (tests) and timed against them (`bench.py`). Non-goals: being fast. They say what the
methods mean, in the fewest words.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedModel

from select_to_think.models.words import Words


@dataclass
class PlainModel:
    """A model that reads the whole text at every call, and counts the calls; the ids `forbidden` never come."""

    model: PreTrainedModel
    forbidden: Sequence[int] = ()
    logits_to_keep: int = 0  # as `transformers` has it: 0 is all
    forwards: int = 0

    @torch.inference_mode()
    def __call__(self, text: Sequence[int]) -> Tensor:
        """(V,) log-probabilities of the token after `text`."""
        self.forwards += 1
        ids = torch.tensor([list(text)], device=self.model.device)
        out = self.model(ids, use_cache=False, logits_to_keep=self.logits_to_keep)
        logits: Tensor = out.logits[0, -1].float()
        logits[list(self.forbidden)] = -torch.inf
        return logits.log_softmax(-1)


def greedy(model: PlainModel, text: Sequence[int], size: int, stop: Collection[int] = ()) -> list[int]:
    """The next `size` tokens, fewer if one of the ids `stop` ends them."""
    out: list[int] = []
    while len(out) < size and not (out and out[-1] in stop):
        out.append(int(model([*text, *out]).argmax()))
    return out


def select_to_think(
    slm: PlainModel,
    llm: PlainModel,
    prompt: Sequence[int],
    size: int,
    stop: Collection[int],
    fires: Callable[[Tensor, Tensor], bool],
    candidates: int,
    takeover: bool = False,
) -> list[int]:
    """S2T, or `takeover`: both models at every token. `fires`: log-probabilities of SLM and LLM (V,) -> triggered?"""
    out: list[int] = []
    while len(out) < size and not (out and out[-1] in stop):
        small, large = (model([*prompt, *out]) for model in (slm, llm))
        best = small.topk(candidates).indices
        choice = large.argmax() if takeover else best[large[best].argmax()]
        out.append(int(choice if fires(small, large) else best[0]))
    return out


def next_word(model: PlainModel, text: Sequence[int], room: int, words: Words) -> list[int]:
    """The next word, of at most `room` tokens."""
    word = greedy(model, text, 1)
    while len(word) < min(room, words.longest):
        (following,) = greedy(model, [*text, *word], 1)
        if not words.goes_on(word[-1], following):
            break
        word.append(following)
    return word


def mentor(
    slm: PlainModel,
    llm: PlainModel,
    prompt: Sequence[int],
    size: int,
    stop: Collection[int],
    words: Words,
    consult_rate: float,
    segment_tokens: int,
    random: Random,
    takes_mentor: Callable[[list[int], list[int], list[int]], bool],
) -> list[int]:
    """MentorCollab. `takes_mentor`: (output so far, the SLM's segment, the mentor's) -> is the mentor's taken?"""
    out: list[int] = []
    while len(out) < size and not (out and out[-1] in stop):
        text, room = [*prompt, *out], size - len(out)
        word = next_word(slm, text, room, words)
        if random.random() < consult_rate and not words.same(theirs := next_word(llm, text, room, words), word):
            ours, theirs = (
                greedy(model, text, min(room, max(segment_tokens, len(own))), stop)
                for model, own in ((slm, word), (llm, theirs))
            )
            word = theirs if takes_mentor(out, ours, theirs) else ours
        out += word
    return out


def free_margin(slm: PlainModel, prompts: Sequence[Sequence[int]], letters: tuple[int, int]) -> float:
    """`mentor-free`: log-odds of option B; with the other order as a second prompt, half their difference."""
    first, *second = (float(p[letters[1]] - p[letters[0]]) for p in map(slm, prompts))
    return (first - second[0]) / 2 if second else first
