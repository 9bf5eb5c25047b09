"""What the LLM says at every token of an answer, its most probable tokens only: asked once, kept, used again.

A label belongs to its LLM, its prompt and its answer, so one file serves several runs and several LLMs; a run that was
killed asks no label twice. The LLM may be a server.

Non-goals: the loss (`distill.py`), and whole distributions, for which an LLM in process is asked while training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import NonNegativeInt

from select_to_think.config import DecodeConfig
from select_to_think.files import Journal
from select_to_think.methods import LLM
from select_to_think.policies.label import along
from select_to_think.structures import Floats, Ids, Observe, Progress, S2TError
from select_to_think.training.folders import is_leader

if TYPE_CHECKING:
    from select_to_think.session import Session

FILE = "labels.jsonl"
DECIMALS = 5


@dataclass(frozen=True, slots=True)
class Label:
    """A line of the file: the LLM's top tokens before each of the P tokens of an answer, best first."""

    key: str
    ids: list[list[NonNegativeInt]]  # (P, K)
    logprobs: list[list[float]]  # (P, K) nats

    def arrays(self) -> tuple[Ids, Floats]:
        """As the training reads it."""
        return np.array(self.ids, np.int64), np.array(self.logprobs, np.float32)


def key_of(llm: str, top_k: int, prompt: Sequence[int], answer: Sequence[int]) -> str:
    """The name of a label."""
    return hashlib.sha256(f"{llm} {top_k} {list(map(int, prompt))} {list(map(int, answer))}".encode()).hexdigest()


def top_labels(
    session: Session,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    top_k: int,
    file: Path,
    decode: DecodeConfig,
    progress: Progress | None = None,
) -> list[tuple[Ids, Floats]]:
    """The LLM's `top_k` most probable tokens, (P, K) ids and log-probabilities in nats, at each answer of (prompt,
    answer) token ids; what `file` does not hold is asked and added to it.

    Raises:
        S2TError: an LLM with another vocabulary, one that does not tell exact log-probabilities, or of fewer tokens; a
            broken file, or one that another process adds to.
    """
    keys = [key_of(session.llm.fingerprint, top_k, *pair) for pair in pairs]
    with Journal(file, Label, alone=is_leader()) as journal:
        known = {label.key: label for label in journal.records}
        todo = list({key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}.items())
        if progress is not None:
            progress(len(pairs) - len(todo), len(pairs))
        for place, (ids, logprobs) in asked(session, [pair for _, pair in todo], top_k, decode):
            label = Label(todo[place][0], ids.tolist(), np.round(logprobs.astype(float), DECIMALS).tolist())
            known[label.key] = label
            if is_leader():
                journal.append({"key": label.key, "ids": label.ids, "logprobs": label.logprobs})
            if progress is not None:
                progress(len(known.keys() & set(keys)), len(pairs))
    return [known[key].arrays() for key in keys]


def asked(
    session: Session, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], top_k: int, decode: DecodeConfig
) -> Iterator[tuple[int, tuple[Ids, Floats]]]:
    """(index, what the LLM says at each token of that answer) as they finish. Raises S2TError as `top_labels`."""
    if not pairs:
        return
    session.require_labels()
    look = Observe(min(top_k, session.ordinary_vocabulary), every=True)
    runs = (
        (index, session.run(along("llm", prompt, answer, look), {"llm": LLM}, len(prompt) + len(answer)))
        for index, (prompt, answer) in enumerate(pairs)
    )
    for index, seen in session.results(runs, decode):
        if (told := seen.top_ids.shape[1]) < look.top_k:
            raise S2TError(f"the LLM's server tells {told} tokens of a step: set --llm-top-k to at most that")
        yield index, (seen.top_ids, seen.top_logprobs)
