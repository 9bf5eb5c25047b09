"""The loops of the published code, from what they define: one sequence, all of it read anew at every token.

They stand beside `evaluation/plain.py`, which says what our definitions mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from random import Random

import torch
from torch import Tensor

from select_to_think.evaluation.plain import PlainModel
from select_to_think.models.loading import LoadedModel

SUPPORT, WARM_UP = 64, 3
Pick = Callable[[list[int], Tensor, Tensor], int]  # (all tokens, log-probabilities of SLM and LLM) -> token


def shares(logprobs: Tensor, ids: Sequence[int]) -> list[float]:
    """Probabilities of some tokens, renormalised."""
    p = [math.exp(logprobs[i]) for i in ids]
    return [each / sum(p) for each in p]


def best(slm: Tensor, count: int) -> list[int]:
    return slm.topk(min(count, len(slm))).indices.tolist()


def kl(slm: Tensor, llm: Tensor) -> float:
    """D_KL(SLM || LLM) over the SLM's top 64, of which those that the LLM practically excludes are left out."""
    ids = [i for i in best(slm, SUPPORT) if math.exp(llm[i]) > 1e-12]
    return sum(p * math.log(p / q) for p, q in zip(shares(slm, ids), shares(llm, ids), strict=True) if p > 0)


def entropy(slm: Tensor, llm: Tensor) -> float:
    return -sum(p * math.log(p) for p in shares(slm, best(slm, SUPPORT)) if p > 0)


def take_over(text: list[int], slm: Tensor, llm: Tensor) -> int:
    return int(llm.argmax())


def rerank(text: list[int], slm: Tensor, llm: Tensor) -> int:
    return max(best(slm, 8), key=lambda token: float(llm[token]))


def score_by(slm: PlainModel, reserved: Sequence[int]) -> Pick:
    """S2T-Local: each candidate is read, and the logits of reserved ids at the end of the head are its score."""

    @torch.inference_mode()
    def pick(text: list[int], small: Tensor, large: Tensor) -> int:
        def score(token: int) -> float:
            bins = slm.model(torch.tensor([[*text, token]]), use_cache=False).logits[0, -1, list(reserved)].softmax(-1)
            return float(bins @ torch.linspace(0, 1, len(reserved)))

        return max(best(small, 8), key=score)

    return pick


def select_to_think(
    slm: PlainModel,
    llm: PlainModel,
    prompt: Sequence[int],
    size: int,
    stop: Collection[int],
    statistic: Callable[[Tensor, Tensor], float],
    threshold: float,
    pick: Pick,
) -> tuple[list[int], list[int]]:
    """The tokens, and at which steps the trigger fired."""
    out: list[int] = []
    fired: list[int] = []
    while len(out) < size and not (out and out[-1] in stop):
        text = [*prompt, *out]
        small, large = slm(text), llm(text)
        if len(out) >= WARM_UP and statistic(small, large) > threshold:
            fired.append(len(out))
            out.append(pick(text, small, large))
        else:
            out.append(int(small.argmax()))
    return out, fired


class Writer:
    """A model that is sent texts and answers with texts, as over HTTP."""

    def __init__(self, loaded: LoadedModel, stop: Collection[int], forbidden: Sequence[int]) -> None:
        self.tokenizer, self.stop, self.model = loaded.tokenizer, stop, PlainModel(loaded.model, forbidden)

    def token(self, text: str) -> str:
        """The text of the next token; nothing at an end of text."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        token = int(self.model(ids).argmax())
        return "" if token in self.stop else str(self.tokenizer.decode([token], skip_special_tokens=True))

    def word(self, text: str) -> str:
        """Up to the token that begins with a blank or a line break; at most eleven tokens behind the first."""
        word = self.token(text)
        for _ in range(11):
            following = self.token(text + word) if word else ""
            if not following or following[0] in " \n":
                break
            word += following
        return word

    def segment(self, text: str, size: int) -> tuple[str, bool]:
        """What the model writes in `size` tokens, and whether the text ended there."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        out: list[int] = []
        while len(out) < size and not (out and out[-1] in self.stop):
            out.append(int(self.model([*ids, *out]).argmax()))
        return str(self.tokenizer.decode(out, skip_special_tokens=True)), out[-1] in self.stop


def question(text: str, ours: str, theirs: str) -> str:
    """What the verifier is asked behind the running text."""
    options = f"Option (A): {ours}, Option (B): {theirs}"
    return f"{text}\nNow I will choose the next sequence that could lead to the correct answer. {options}. "


def free(slm: Writer) -> Callable[[str], bool]:
    """MentorCollab-FREE: whether the most probable token is B."""
    return lambda asked: slm.token(f"{asked}My choice: Option (") in ("B", " B")


def mentor(
    slm: Writer, llm: Writer, prompt: str, size: int, rate: float, random: Random, takes_mentor: Callable[[str], bool]
) -> str:
    """MentorCollab in texts, with our draws. An end of text within a segment ends the answer (there it does not)."""
    said = ""
    while len(slm.tokenizer(said, add_special_tokens=False).input_ids) < size:
        word, ended = slm.word(prompt + said), False
        if random.random() < rate and llm.word(prompt + said) != word:
            ours, theirs = (each.segment(prompt + said, 16) for each in (slm, llm))
            word, ended = theirs if takes_mentor(question(prompt + said, ours[0], theirs[0])) else ours
        said += word
        if ended or not word:
            break
    return said
