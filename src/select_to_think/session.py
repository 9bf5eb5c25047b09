"""The facade: load a pair, choose a method, generate, read the trace.

    session = Session.load()                                   # the bundled pair
    answer, = session.generate(["..."], method="s2t-local")
    print(answer.text, [step for step in answer.steps if step.flip])

Everything that a session is asked runs in one runtime, in one batch, whoever asks: streams may be open at the same
time, of any methods, also from several threads.

Non-goals: loading (`artefacts.py`), files of questions, grading, results (see `evaluation/`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

from torch import Tensor

from select_to_think.artefacts import Artefacts, Question
from select_to_think.config import DecodeConfig, MentorConfig, MethodSettings, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.contexts.llama_cpp_backend import LlamaCppBackend
from select_to_think.contexts.local import LocalBackend
from select_to_think.contexts.protocol import Backend
from select_to_think.contexts.remote.backend import RemoteBackend
from select_to_think.contexts.transformers_backend import TransformersBackend
from select_to_think.evaluation.grading import vote
from select_to_think.methods import LLM, SLM, Decoder, Method, find_method
from select_to_think.models.adapter import NO_CHANGE, load_adapter
from select_to_think.models.gguf import LoadedGGUF
from select_to_think.models.loading import LoadedModel
from select_to_think.models.prompting import Conversation
from select_to_think.models.scorer import Scorer
from select_to_think.models.vocabulary import check_shared_vocabulary, reserved_ids
from select_to_think.policies.base import Task
from select_to_think.policies.interpreter import Listener, interpret
from select_to_think.policies.label import Label, Labels
from select_to_think.policies.score import score_output
from select_to_think.runs import Committed, Event, Finished, Run
from select_to_think.runtime import Runtime
from select_to_think.streams import Streams
from select_to_think.structures import Generation, PolicyRun, Role, S2TError, StepRecord
from select_to_think.triggers.base import Trigger
from select_to_think.triggers.kl import SUPPORT
from select_to_think.triggers.table import find_trigger

Extract = Callable[[int, str], str | None]


def plain_answer(text: str) -> str | None:
    """What a text gives as its answer: "The answer is ..." and the like."""
    return vote(text, "text")


class Session(Artefacts):
    """A pair of models, ready to decode by any method."""

    def __init__(
        self,
        config: PairConfig = PairConfig(),
        *,
        slm: LoadedModel | None = None,
        llm: LoadedModel | None = None,
        runtime: RuntimeConfig = RuntimeConfig(),
    ) -> None:
        """Stand for the pair that `config` names; models given as objects take its place."""
        super().__init__(config, slm=slm, llm=llm, runtime=runtime)
        self.backends: dict[str, Backend] = {}  # of models; each is made when a method first needs it
        self.making = RLock()  # what is missing is made by one thread at a time
        self.streams = Streams(Runtime(self.backends, runtime))

    @classmethod
    def load(cls, config: PairConfig = PairConfig(), runtime: RuntimeConfig = RuntimeConfig()) -> Session:
        """A session on the pair that `config` names."""
        return cls(config, runtime=runtime)

    def backend(self, model: str) -> Backend:
        """The backend of `slm` or `llm`."""
        with self.making:
            if model not in self.backends:
                self.backends[model] = self.make_backend(model)
            return self.backends[model]

    def _load(self, role: str, given: str | None) -> LoadedModel:
        """Load a model, which shall find room."""
        self.give_back()
        return super()._load(role, given)

    def give_back(self) -> None:
        """Give back the memory for keys and values, unless something is being answered; what is asked next takes it
        anew, of what is free then."""
        holders = [backend for backend in list(self.backends.values()) if isinstance(backend, TransformersBackend)]
        self.streams.when_idle(lambda: list(map(TransformersBackend.give_back, holders)))

    def make_backend(self, model: str) -> Backend:
        """Contexts in process, or behind the server that has the LLM."""
        if model == "llm" and self.reached is not None:
            return RemoteBackend(self.reached.server, self.llm.vocab_size, reserved_ids(self.llm))
        loaded = self.slm if model == "slm" else self.local_llm
        cost, never = float(loaded.model.num_parameters()), sorted(reserved_ids(loaded))
        if isinstance(loaded, LoadedGGUF):
            return LlamaCppBackend(loaded, forbidden=never, config=self.runtime_config, cost=cost)
        return TransformersBackend(loaded.model, forbidden=never, config=self.runtime_config, cost=cost)

    def adapter(self, folder: Path, bin_rows: Tensor | None = None, merged: bool = False) -> str:
        """Make a trained adapter of the SLM known to its backend, or one that is `merged` in its weights; returns its
        name there."""
        backend, name = self.backend("slm"), str(folder)
        assert isinstance(backend, LocalBackend)
        with self.making:
            if name not in backend.adapters:
                backend.add_adapter(name, NO_CHANGE if merged else load_adapter(folder, self.slm), bin_rows)
        return name

    def adapted(self, scorer: Scorer) -> Role:
        """The SLM with a scorer's adapter on."""
        return Role("slm", self.adapter(scorer.path, scorer.bin_rows, scorer.merged))

    def trigger(self, name: str, budget: float, coupled: Scorer | None = None, warm_up_steps: int = 0) -> Trigger:
        """A trigger that fires on about a fraction `budget` of the steps behind the first `warm_up_steps`; `coupled`:
        of the SLM with that adapter."""
        return find_trigger(name).for_budget(self, budget, coupled, warm_up_steps)

    def decoder(self, method: str, settings: MethodSettings = MethodSettings()) -> Decoder:
        """A method made ready.

        Raises:
            S2TError: unknown names, or settings that this pair cannot serve.
        """
        record = find_method(method)
        with self.making:
            return record.build(record, self, settings)

    def generate(
        self,
        questions: Sequence[str],
        method: str = "s2t-local",
        decode: DecodeConfig = DecodeConfig(),
        select: SelectConfig = SelectConfig(),
        mentor: MentorConfig = MentorConfig(),
    ) -> list[Generation]:
        """Answer every question; the results stand in the order of the questions."""
        results = dict(self.stream(questions, method, decode, select, mentor))
        return [results[i] for i in range(len(questions))]

    def stream(
        self,
        questions: Iterable[Question],
        method: str,
        decode: DecodeConfig = DecodeConfig(),
        select: SelectConfig = SelectConfig(),
        mentor: MentorConfig = MentorConfig(),
        *,
        extract: Extract | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[tuple[int, Generation]]:
        """Yield (index, answer) as answers finish, batched over all questions.

        Random choices follow from `decode.seed` and the token ids of the prompt.

        Args:
            questions: read lazily.
            method: a name of `methods.py`.
            decode: how to decode.
            select: triggers and candidates.
            mentor: consultations and verifier of MentorCollab.
            extract: (index, text) -> the answer that votes under maj@N; by default "The answer is ..." and the like.
            stop: strings that end an answer; its text ends before the first of them.

        Raises:
            S2TError: unknown names, missing artefacts, or a prompt that does not fit the context.
        """
        settings = MethodSettings(decode, select, mentor, tuple(stop))
        runs = self.runs(questions, method, settings, extract)
        for index, result in self.results(runs, decode):
            yield index, replace(result, text=self.text(result.tokens, stop))

    async def stream_steps(
        self, question: Question, method: str = "s2t-local", settings: MethodSettings = MethodSettings()
    ) -> AsyncIterator[StepRecord]:
        """The steps of one answer as they become final; other work of the event loop goes on meanwhile."""
        events = self.events(self.runs([question], method, settings), 1)

        def leave(read: asyncio.Future[tuple[int, Event] | None]) -> None:
            read.exception()  # nobody else asks for it
            events.close()  # type: ignore[attr-defined]

        while True:
            reading = asyncio.get_running_loop().run_in_executor(None, next, events, None)
            try:
                found = await asyncio.shield(reading)
                if found is None:
                    return
                if isinstance(found[1], Committed):
                    for step in found[1].steps:
                        yield step
            except BaseException:  # cancelled, perhaps in the midst of a step, or left
                reading.add_done_callback(leave)
                raise

    def runs(
        self, questions: Iterable[Question], method: str, settings: MethodSettings, extract: Extract | None = None
    ) -> Iterator[tuple[int, Run]]:
        """(index, run) of every question by a method. Raises S2TError for one text in place of several."""
        if isinstance(questions, str):
            raise S2TError("give a list of questions, not one text: put it into brackets")
        record, decoder = find_method(method), self.decoder(method, settings)
        for index, question in enumerate(questions):
            prompt = self.prompt(question, settings.decode.max_new_tokens, with_llm=record.asks_llm)
            find = partial(extract, index) if extract else plain_answer
            yield index, self.answering(record, decoder, question, prompt, settings, find)

    def answering(
        self,
        record: Method,
        decoder: Decoder,
        question: Question,
        prompt: Sequence[int],
        settings: MethodSettings,
        extract: Callable[[str], str | None] = plain_answer,
    ) -> Run:
        """The run of one question by a method made ready; `prompt` are its token ids."""
        if settings.logit_bias and record.asks_llm:
            self.assert_llm_takes_bias(record.name)
        begun = question.answer_tokens if isinstance(question, Conversation) else ()
        written = partial(self.text, stop=settings.stop, begun=len(begun))
        task = Task(self.asked(question), lambda tokens: extract(written([*begun, *tokens])), len(begun))
        policy = decoder.policy.about(task)
        run = policy.run(prompt, f"{settings.decode.seed}/{prompt}")
        run = self.over_llm(run, question, prompt) if record.asks_llm else run
        new, candidates = settings.decode.max_new_tokens, settings.select.candidates if record.trigger else 0
        tokens = self.room_for(question, prompt, new, candidates, with_llm=record.asks_llm) + policy.leaf_tokens
        found = self.run(run, decoder.roles, tokens, record.samples if record.samples > 1 else 0)
        return replace(found, bias=settings.logit_bias)

    def run(self, policy: Any, roles: Mapping[str, Role], tokens: int, copies: int = 0) -> Run:
        """A run whose models are there."""
        for role in roles.values():
            self.backend(role.backend)
        return Run(policy, roles, tokens, copies)

    def events(self, runs: Iterator[tuple[int, Run]], max_rows: int) -> Iterator[tuple[int, Event]]:
        """(index, event) of all runs as they come, in one batch with what else this session does."""
        return self.streams.events(runs, max_rows)

    def over_llm(self, run: PolicyRun, question: Question, prompt: Sequence[int]) -> PolicyRun:
        """A run behind `prompt` that asks the LLM, whether or not the LLM has the SLM's vocabulary."""
        if self.shares_vocabulary:
            return run
        llm_prompt = tuple(self.llm_prompt(question))
        return interpret(run, Listener(self.translation, len(prompt), llm_prompt, self.llm.max_positions))

    def require_labels(self) -> None:
        """Raise S2TError for an LLM that cannot label: another vocabulary, or no exact log-probabilities."""
        check_shared_vocabulary(self.slm, self.llm)
        if self.inexact_llm:
            raise S2TError(f"labels need {self.inexact_llm}")

    def label(
        self,
        questions: Sequence[Question],
        outputs: Sequence[Sequence[int]],
        *,
        with_llm: bool = True,
        hidden: bool = False,
        llm_top: int = 1,
        decode: DecodeConfig = DecodeConfig(),
        coupled: Scorer | None = None,
    ) -> Iterator[tuple[int, Labels]]:
        """Yield (index, what both models say at every token of outputs[index]) as they finish.

        With a `coupled` scorer it is the SLM with the scorer's adapter on that speaks. Of the LLM's own most probable
        tokens `llm_top` are told.

        Raises:
            S2TError: with an LLM that has another vocabulary than the SLM.
        """
        if with_llm:
            self.require_labels()
        policy = Label(min(SUPPORT, self.ordinary_vocabulary), with_llm, hidden, llm_top)
        slm = SLM if coupled is None else self.adapted(coupled)
        roles = {"slm": slm, **({"llm": LLM} if with_llm else {})}

        def runs() -> Iterator[tuple[int, Run]]:
            for index, (question, tokens) in enumerate(zip(questions, outputs, strict=True)):
                prompt = self.prompt(question, len(tokens), with_llm=with_llm)
                yield index, self.run(policy.run(prompt, tokens), roles, len(prompt) + len(tokens))

        yield from self.results(runs(), decode)

    def score(
        self, prompts: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]], decode: DecodeConfig = DecodeConfig()
    ) -> Iterator[tuple[int, Generation]]:
        """Yield (index, the given outputs[index] with the SLM's log-probabilities and greedy tokens) as they finish.

        Prompts and outputs are token ids, at least one each.
        """
        runs = (
            (i, self.run(score_output(*pair), {"slm": SLM}, sum(map(len, pair))))
            for i, pair in enumerate(zip(prompts, outputs, strict=True))
        )
        yield from self.results(runs, decode)

    def results(self, runs: Iterator[tuple[int, Run]], decode: DecodeConfig) -> Iterator[tuple[int, Any]]:
        """(index, result) of all runs as they finish."""
        silent = ((index, replace(run, told=False)) for index, run in runs)
        for index, event in self.events(silent, decode.max_batch):
            if isinstance(event, Finished):
                yield index, event.result
