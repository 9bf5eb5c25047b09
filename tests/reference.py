"""The plainest possible definitions: whole prefix every time, no cache, one sequence, one token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor


def next_logprobs(model: torch.nn.Module, tokens: Sequence[int], forbidden: Sequence[int] = ()) -> Tensor:
    """Log-probabilities of the next token after `tokens`, (V,)."""
    with torch.no_grad():
        logits = model(torch.tensor([list(tokens)])).logits[0, -1].float()
    logits[list(forbidden)] = -torch.inf
    return logits.log_softmax(-1)


def greedy(model: torch.nn.Module, prompt: Sequence[int], new: int, stop: set[int]) -> list[int]:
    """Greedy decoding."""
    out: list[int] = []
    while len(out) < new and not (out and out[-1] in stop):
        out.append(int(next_logprobs(model, [*prompt, *out]).argmax()))
    return out


def bucketed_kl(llm: Tensor, slm: Tensor, support: int) -> float:
    """The KL trigger's statistic, written with Python floats."""
    ids = slm.topk(support).indices.tolist()
    inside = [(math.exp(llm[i]), math.exp(slm[i])) for i in ids]
    rest = (max(1 - sum(p for p, _ in inside), 1e-7), max(1 - sum(q for _, q in inside), 1e-7))
    return sum(p * math.log(p / q) for p, q in [*inside, rest] if p > 0)


def select_to_think(
    slm: torch.nn.Module,
    llm: torch.nn.Module,
    prompt: Sequence[int],
    new: int,
    stop: set[int],
    threshold: float,
    k: int,
    support: int,
    takeover: bool = False,
) -> list[int]:
    """S2T with the KL trigger: both models over the whole prefix at every token."""
    out: list[int] = []
    while len(out) < new and not (out and out[-1] in stop):
        p_slm, p_llm = (next_logprobs(m, [*prompt, *out]) for m in (slm, llm))
        token = int(p_slm.argmax())
        if bucketed_kl(p_llm, p_slm, support) > threshold:
            candidates = p_slm.topk(k).indices.tolist()
            token = int(p_llm.argmax()) if takeover else max(candidates, key=lambda c: float(p_llm[c]))
        out.append(token)
    return out


def greedy_word(
    model: torch.nn.Module, prefix: Sequence[int], room: int, starts: set[int], ends: set[int]
) -> list[int]:
    """The model's next word: at most `room` tokens and at most 32, up to a boundary."""
    word = greedy(model, prefix, 1, set())
    while len(word) < min(room, 32) and word[-1] not in ends:
        following = greedy(model, [*prefix, *word], 1, set())
        if following[0] in starts:
            break
        word += following
    return word


def free_margin(slm: torch.nn.Module, prompts: Sequence[Sequence[int]], letters: tuple[int, int]) -> float:
    """MentorCollab-FREE: log-odds of option B; with the other order as a second prompt, half their difference."""
    odds = [float(p[letters[1]] - p[letters[0]]) for p in (next_logprobs(slm, ids) for ids in prompts)]
    return odds[0] if len(odds) == 1 else (odds[0] - odds[1]) / 2


def mentor(
    slm: torch.nn.Module,
    llm: torch.nn.Module,
    prompt: Sequence[int],
    new: int,
    stop: set[int],
    boundaries: tuple[set[int], set[int]],
    rate: float,
    segment: int,
    seed: str,
    takes_mentor: Callable[[list[int], list[int], list[int]], bool],
) -> list[int]:
    """MentorCollab: both models over the whole text at every token. `takes_mentor(output, SLM's segment, mentor's)`."""
    random, out = Random(seed), list[int]()
    while len(out) < new and not (out and out[-1] in stop):
        text, room = [*prompt, *out], new - len(out)
        word = greedy_word(slm, text, room, *boundaries)
        if random.random() < rate and (theirs := greedy_word(llm, text, room, *boundaries)) != word:
            ours, theirs = (
                greedy(model, text, min(room, max(segment, len(own))), stop)
                for model, own in ((slm, word), (llm, theirs))
            )
            word = theirs if takes_mentor(out, ours, theirs) else ours
        out += word
    return out
