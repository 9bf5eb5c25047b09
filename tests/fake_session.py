"""A session without models: every answer and label is a function of the question, and answers finish out of order.

Run as a script (`python fake_session.py evaluate|collect FOLDER KIND`) it works in processes that kill themselves at
operations on files, until one of them finishes.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np

from select_to_think.collect.collect import collect
from select_to_think.config import (
    CollectConfig,
    DecodeConfig,
    EvalSettings,
    MentorConfig,
    MethodSettings,
    PairConfig,
    SelectConfig,
)
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.runner import evaluate
from select_to_think.methods import find_method
from select_to_think.policies.label import Labels
from select_to_think.structures import Counts, Generation, PromptTooLong, StepRecord
from select_to_think.triggers.calibration import Calibration

VOCABULARY, SUPPORT = 100, 64
ANSWERS = ("red", "blue", "green")


SHAPE = SimpleNamespace(
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    vocab_size=VOCABULARY,
)
LONGEST_PROMPT = 60  # characters


class Device(str):
    type = "cpu"


def words(tokens: Sequence[int]) -> str:
    return " ".join(f"w{token}" for token in tokens)


def speaking(decode: Callable[[Sequence[int]], str]) -> Any:
    """What of a session turns tokens into text."""
    tokenizer = SimpleNamespace(decode=lambda tokens, **_: decode(tokens))
    return SimpleNamespace(text=decode, slm=SimpleNamespace(tokenizer=tokenizer))


class FakeSession:
    shares_vocabulary, incomparable_llm = True, None

    def __init__(self, *, fingerprint: str = "slm", scorer: Path | None = None) -> None:
        self.config = PairConfig()
        self.notes: list[str] = []
        self.slm = SimpleNamespace(
            fingerprint=fingerprint,
            device=Device("cpu"),
            dtype="torch.float32",
            model=SimpleNamespace(config=SHAPE),
            tokenizer=speaking(words).slm.tokenizer,
        )
        self.llm = self.local_llm = SimpleNamespace(
            fingerprint="llm", model=SimpleNamespace(config=SimpleNamespace(**{**vars(SHAPE), "num_hidden_layers": 6}))
        )
        self.calibration = replace(
            Calibration.fit(
                {name: [np.linspace(0, 1, 500)] for name in ("kl", "entropy", "margin")}, ["c0"], fingerprint, "llm"
            ),
            question_keys=["k0"],
        )
        self.scorer_folder = scorer
        self.scorer_kind = {"mode": "coupled", "score": "bins"}
        self.streamed: list[str] = []

    def decoder(self, method: str, settings: MethodSettings) -> None:
        find_method(method)

    @contextmanager
    def using(self, calibration: Calibration, **folders: str) -> Iterator[None]:
        before = self.calibration, self.config
        self.calibration, self.config = calibration, replace(self.config, **folders)
        yield
        self.calibration, self.config = before

    def coupled(self, method: str, select: SelectConfig) -> None:
        return None

    def thresholds(self, coupled: None) -> Calibration:
        return self.calibration

    def trigger(self, name: str, budget: float, coupled: None = None, warm_up_steps: int = 0) -> Any:
        return SimpleNamespace(threshold=1 - budget if name == "random" else self.calibration.threshold(name, budget))

    def scorer(self, select: SelectConfig) -> Any:
        return SimpleNamespace(path=self.scorer_folder, **self.scorer_kind)

    def prompt(self, question: str, max_new_tokens: int, *, with_llm: bool) -> list[int]:
        if len(question) > LONGEST_PROMPT:
            raise PromptTooLong("too long", len(question))
        return [ord(letter) % VOCABULARY for letter in question[:10]]

    def text(self, tokens: Sequence[int]) -> str:
        return words(tokens)

    def generate(self, questions: Sequence[str], *arguments: Any) -> list[Generation]:
        return [self.answer(question, "greedy") for question in questions]

    def stream(
        self,
        questions: Iterable[str],
        method: str,
        decode: DecodeConfig = DecodeConfig(),
        select: SelectConfig = SelectConfig(),
        mentor: MentorConfig = MentorConfig(),
        *,
        extract: Any = None,
    ) -> Iterator[tuple[int, Generation]]:
        live: list[tuple[int, str]] = []
        waiting = enumerate(questions)
        order = Random(len(method))
        while True:
            while len(live) < decode.max_batch and (entry := next(waiting, None)):
                live.append(entry)
            if not live:
                return
            index, question = live.pop(order.randrange(len(live)))
            self.streamed.append(question)
            yield index, self.answer(question, method, decode.seed)

    def answer(self, question: str, method: str, seed: int = 0) -> Generation:
        random = Random(f"{question} {method}{seed or ''}" if method == "sample" else f"{question} {method}")
        triggered = method in ("takeover", "s2t", "s2t-local")
        steps = []
        for _ in range(random.randint(3, 12)):
            greedy = random.randrange(VOCABULARY)
            candidates = tuple(dict.fromkeys([greedy, *random.sample(range(VOCABULARY), 9)]))[:8]
            fired = triggered and random.random() < 0.4
            steps.append(
                StepRecord(
                    token=random.choice(candidates[:2]) if fired else greedy,
                    logprob=-random.random(),
                    greedy_token=greedy,
                    statistic=random.random() if triggered else None,
                    fired=fired,
                    candidates=candidates if fired else (),
                    candidate_logprobs=tuple(-float(i) for i in range(8)) if fired else (),
                    scores=(float("-inf"), *(float(i) for i in range(7))) if fired else (),
                    llm_top_token=random.randrange(VOCABULARY) if fired and find_method(method).asks_llm else None,
                )
            )
        tokens = tuple(step.token for step in steps)
        text = self.text(tokens) + f"\nThe answer is {random.choice(ANSWERS)}."
        votes = tuple(random.choices(ANSWERS, k=3)) if method.startswith("maj@") else ()
        asked = len(tokens) if find_method(method).asks_llm else 0
        counts = Counts(
            slm_tokens_processed=2 * len(tokens),
            slm_forwards=len(tokens),
            llm_tokens_generated=asked // 3,
            llm_tokens_processed=asked,
            llm_forwards=asked,
            consultations=4 if find_method(method).mentor else 0,
            llm_failures=1 if find_method(method).mentor else 0,
        )
        return Generation(tokens, "stop", tuple(steps), counts, text, votes)

    def label(
        self,
        questions: Sequence[str],
        outputs: Sequence[Sequence[int]],
        *,
        with_llm: bool = True,
        hidden: bool = False,
        llm_top: int = 1,
        decode: DecodeConfig = DecodeConfig(),
        coupled: None = None,
    ) -> Iterator[tuple[int, Labels]]:
        for index in reversed(range(len(questions))):
            yield (
                index,
                fake_labels(questions[index], outputs[index], with_llm=with_llm, hidden=hidden, llm_top=llm_top),
            )


def fake_labels(
    question: str, tokens: Sequence[int], *, with_llm: bool = True, hidden: bool = False, llm_top: int = SUPPORT
) -> Labels:
    """Labels of random distributions over the vocabulary in which the SLM's greedy token is the output token.

    The first entry of a hidden state tells how much likelier the LLM finds its own best token.
    """
    random = np.random.default_rng(sum(map(ord, question)))
    slm = random.dirichlet(np.full(VOCABULARY, 0.3), size=len(tokens)) + 1e-9  # (P, V)
    llm = slm * random.gamma(0.5, size=slm.shape) + 1e-9
    for row, token in zip(slm, tokens, strict=True):
        best = row.argmax()
        row[[token, best]] = row[[best, token]]
    llm /= llm.sum(axis=1, keepdims=True)
    slm_ids = np.argsort(-slm, axis=1)[:, :SUPPORT]
    llm_ids = np.argsort(-llm, axis=1)[:, :llm_top]
    take = np.take_along_axis
    odds = np.log(llm.max(axis=1)) - np.log(llm[range(len(tokens)), slm_ids[:, 0]])
    states = np.column_stack([odds, random.normal(size=(len(tokens), 7))]).astype(np.float32)
    return Labels(
        slm_ids=slm_ids,
        slm_logprobs=np.log(take(slm, slm_ids, 1)).astype(np.float32),
        statistics={
            name: random.random(len(tokens)).astype(np.float32)
            for name in ("entropy", "margin", *(("kl",) if with_llm else ()))
        },
        hidden=states if hidden else None,
        llm_logprobs=np.log(take(llm, slm_ids, 1)).astype(np.float32) if with_llm else None,
        llm_top_ids=llm_ids if with_llm else None,
        llm_top_logprobs=np.log(take(llm, llm_ids, 1)).astype(np.float32) if with_llm else None,
    )


def fake_items(count: int = 10, split: str | None = "train") -> list[Item]:
    return [
        Item(f"i{n}", f"What is number {n}?", ANSWERS[n % 3], domain=("sums", "facts")[n % 2], split=split)
        for n in range(count)
    ]


METHODS = ("greedy", "s2t", "maj@3")
DECODE = DecodeConfig(max_batch=5)
SETTINGS = EvalSettings(DECODE)
COLLECT = CollectConfig(shard_items=4, collect_budget=0.3, entropy_budget=0.3)


def work(command: str, folder: Path, **settings: Any) -> Any:
    """The same evaluation or collection every time."""
    if command == "evaluate":
        session: Any = FakeSession()
        return evaluate(session, fake_items(), METHODS, replace(SETTINGS, seeds=[0, 4]), out=folder, **settings)
    return collect(FakeSession(), fake_items(), COLLECT, DECODE, folder, **settings)  # type: ignore[arg-type]


def kill_at(kind: str, number: int) -> None:
    """Kill this process at its `number`-th write (half of it is done) or before or after its `number`-th rename."""
    real_write, real_replace = os.write, os.replace
    seen = 0

    def due() -> bool:
        nonlocal seen
        seen += 1
        return seen == number

    def write(handle: int, data: Any) -> int:
        if due():
            real_write(handle, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real_write(handle, data)

    def replace(source: Any, target: Any) -> None:
        last = due()
        if last and kind == "before-rename":
            os.kill(os.getpid(), signal.SIGKILL)
        real_replace(source, target)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    if kind == "write":
        os.write = write
    else:
        os.replace = replace


def die_until_done(command: str, folder: Path, kind: str) -> int:
    """Do the work in one process after the other, each killed a bit later, until one finishes; returns the deaths."""
    for deaths in range(60):
        child = os.fork()
        if child == 0:
            kill_at(kind, 1 + deaths % (6 if kind == "write" else 4))
            work(command, folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return deaths
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    raise AssertionError("no progress in 60 runs")


if __name__ == "__main__":
    print(die_until_done(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
