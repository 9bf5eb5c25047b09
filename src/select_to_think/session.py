"""The facade: load a pair, choose a method, generate, read the trace.

    session = Session.load()                                   # the bundled pair
    answer, = session.generate(["..."], method="s2t-local")
    print(answer.text, [step for step in answer.steps if step.flip])

Non-goals: loading (`artefacts.py`), files of questions, grading, results (see `evaluation/`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from select_to_think.artefacts import Artefacts
from select_to_think.config import DecodeConfig, MentorConfig, PairConfig, SelectConfig
from select_to_think.engine import Engine
from select_to_think.evaluation.grading import extract as extract_answer
from select_to_think.methods import build_backends, build_policy, build_trigger
from select_to_think.models.prompting import prompt_ids
from select_to_think.models.scorer import Scorer
from select_to_think.models.vocabulary import check_shared_vocabulary
from select_to_think.policies.base import Policy
from select_to_think.policies.interpreter import interpret
from select_to_think.policies.label import Label
from select_to_think.policies.majority import MajorityVote
from select_to_think.policies.mentor import Mentor
from select_to_think.policies.score import score_output
from select_to_think.policies.table import NEEDS_LLM, parse_method
from select_to_think.structures import Generation, Labels, PolicyRun, PromptTooLong, S2TError
from select_to_think.triggers.base import Trigger
from select_to_think.triggers.kl import SUPPORT

Extract = Callable[[int, str], str | None]
Question = str | Sequence[int]  # or the token ids of a whole prompt


class Session(Artefacts):
    """A pair of models, ready to decode by any method."""

    @classmethod
    def load(cls, config: PairConfig = PairConfig()) -> Session:
        """A session on the pair that `config` names."""
        return cls(config)

    def trigger(self, name: str, budget: float, coupled: Scorer | None = None) -> Trigger:
        """A trigger that fires on about a fraction `budget` of the steps of the model that proposes."""
        return build_trigger(self, name, budget, coupled)

    def policy(
        self,
        method: str,
        decode: DecodeConfig,
        select: SelectConfig,
        mentor: MentorConfig = MentorConfig(),
        stop: Sequence[str] = (),
    ) -> Policy:
        """The policy of a method; its answers end with the first of the strings `stop` as well.

        Raises:
            S2TError: unknown names, or settings that this pair cannot serve.
        """
        return build_policy(self, method, decode, select, mentor, stop)

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
            method: a name of `policies/table.py`.
            decode: how to decode.
            select: triggers and candidates.
            mentor: consultations and verifier of MentorCollab.
            extract: (index, text) -> the answer that votes under maj@N; by default "The answer is ..." and the like.
            stop: strings that end an answer; its text ends before the first of them.

        Raises:
            S2TError: unknown names, missing artefacts, or a prompt that does not fit the context.
        """
        kind, n = parse_method(method)
        policy = self.policy(method, decode, select, mentor, stop)
        find = extract or (lambda _, text: extract_answer(text, "text").extracted)

        def start(index: int, question: Question) -> PolicyRun:
            prompt = self.prompt(question, decode.max_new_tokens, with_llm=kind in NEEDS_LLM)
            own = policy
            if isinstance(policy, MajorityVote):
                own = replace(policy, extract=lambda tokens: find(index, self.text(tokens, stop)))
            if isinstance(policy, Mentor):
                own = policy.about(question if isinstance(question, str) else self.text(question))
            run = own.run(prompt, f"{decode.seed}/{prompt}")
            return self.over_llm(run, question, prompt) if kind in NEEDS_LLM else run

        with ExitStack() as stack:
            backends = build_backends(self, kind, select, stack)
            engine = Engine(backends, max(1, decode.max_batch // n))
            for index, generation in engine.run((i, start(i, question)) for i, question in enumerate(questions)):
                yield index, replace(generation, text=self.text(generation.tokens, stop))

    def over_llm(self, run: PolicyRun, question: Question, prompt: Sequence[int]) -> PolicyRun:
        """A run behind `prompt` that asks the LLM, whether or not the LLM has the SLM's vocabulary."""
        if self.shares_vocabulary:
            return run
        return interpret(run, self.translation, prompt, self.llm_prompt(question), self.llm.max_positions)

    def label(
        self,
        questions: Sequence[str],
        outputs: Sequence[Sequence[int]],
        *,
        with_llm: bool = True,
        hidden: bool = False,
        decode: DecodeConfig = DecodeConfig(),
    ) -> Iterator[tuple[int, Labels]]:
        """Yield (index, what both models say at every token of outputs[index]) as they finish.

        Raises:
            S2TError: with an LLM that has another vocabulary than the SLM.
        """
        if with_llm:
            check_shared_vocabulary(self.slm, self.llm)
        policy = Label(min(SUPPORT, self.ordinary_vocabulary), with_llm, hidden)
        with ExitStack() as stack:
            engine = Engine(
                build_backends(self, "llm" if with_llm else "greedy", SelectConfig(), stack), decode.max_batch
            )
            runs = (
                (i, policy.run(self.prompt(question, len(tokens), with_llm=with_llm), tokens))
                for i, (question, tokens) in enumerate(zip(questions, outputs, strict=True))
            )
            yield from engine.run(runs)

    def score(
        self, prompts: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]], decode: DecodeConfig = DecodeConfig()
    ) -> Iterator[tuple[int, Generation]]:
        """Yield (index, the given outputs[index] with the SLM's log-probabilities and greedy tokens) as they finish.

        Prompts and outputs are token ids, at least one each.
        """
        with ExitStack() as stack:
            engine = Engine(build_backends(self, "greedy", SelectConfig(), stack), decode.max_batch)
            yield from engine.run((i, score_output(*pair)) for i, pair in enumerate(zip(prompts, outputs, strict=True)))

    def prompt(self, question: Question, max_new_tokens: int, *, with_llm: bool) -> list[int]:
        """Token ids of the prompt.

        Raises:
            PromptTooLong: it and the longest answer do not fit the context.
            S2TError: it is empty.
        """
        ids = prompt_ids(self.slm, question) if isinstance(question, str) else list(question)
        room = self.room(with_llm=with_llm)
        longest = max(len(ids), len(self.llm_prompt(question))) if with_llm and not self.shares_vocabulary else len(ids)
        if longest + max_new_tokens > room:
            raise PromptTooLong(
                f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the context of {room} tokens: "
                f"shorten the question ({question[:40]!r}...) or lower --max-new-tokens",
                longest,
            )
        if not ids:
            raise S2TError("the question is empty: write one")
        return ids

    def llm_prompt(self, question: Question) -> list[int]:
        """Token ids of the prompt in the LLM's own template and vocabulary."""
        return prompt_ids(self.llm, question) if isinstance(question, str) else self.translation.to_llm(question)

    def text(self, tokens: Sequence[int], stop: Sequence[str] = ()) -> str:
        """The text of generated tokens, without special tokens, up to the first of the strings `stop`."""
        text = str(self.slm.tokenizer.decode(list(tokens), skip_special_tokens=True))
        return text[: min((at for at in map(text.find, stop) if at >= 0), default=None)]
