"""Answers of a pair in this process, as they are written."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from queue import SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar, cast

from select_to_think.cli.chat.dialogue import Answering, Example, Turn, in_turn
from select_to_think.cli.trace import Ending
from select_to_think.config import MethodSettings
from select_to_think.methods import METHODS

if TYPE_CHECKING:
    from select_to_think.artefacts import Question
    from select_to_think.session import Session

EXAMPLES = 10  # of each domain
Value = TypeVar("Value")


class LocalChat:
    """A session that is asked one question after the other."""

    def __init__(self, session: Session) -> None:
        """Nothing is loaded yet."""
        self.session = session
        self.name = session.config.slm or session.config.pair
        self.default = "s2t-local"

    def methods(self) -> dict[str, str]:
        """What every method does."""
        return {name: method.help for name, method in METHODS.items()}

    def examples(self) -> list[Example]:
        """Problems of the bundled pair that are no test problems."""
        from select_to_think.pairs.problems import load_split

        problems = load_split("validation", limit_per_domain=EXAMPLES) if self.session.folder else []
        return in_turn(Example(each.domain, each.question, each.answer) for each in problems)

    def reply(
        self, turns: Sequence[Turn], method: str | None, settings: MethodSettings, named: Collection[str] = ()
    ) -> Answering:
        """Answer what was said last. A model without a chat template does not know what was said before."""
        from select_to_think.models.prompting import Conversation

        heard = turns if self.session.slm.tokenizer.chat_template else turns[-1:]
        return self.answer(Conversation(tuple(heard)), method or self.default, settings)

    def answer(self, question: Question, method: str, settings: MethodSettings) -> Answering:
        """Answer one question."""
        from select_to_think.evaluation.tracing import step_trace
        from select_to_think.models.detokenizer import Detokenizer
        from select_to_think.runs import Committed, Finished

        session, written = self.session, Detokenizer(self.session.slm.tokenizer)
        runs = session.runs([question], method, settings)
        with closing(from_a_thread(session.events(runs, settings.decode.max_batch))) as events:
            for _, event in events:
                if isinstance(event, Committed):
                    for step in event.steps:
                        yield step_trace(session.text, step, len(written.tokens), written.push(step.token))
                elif isinstance(event, Finished):
                    answer, trigger = event.result, getattr(session.decoder(method, settings).policy, "trigger", None)
                    name, threshold = (trigger.kind.name, trigger.threshold) if trigger else (None, None)
                    counts, tail = asdict(answer.counts), written.flush()
                    yield Ending(answer.finish_reason, method, counts, answer.votes, name, threshold, tail)


def from_a_thread(values: Iterator[Value]) -> Generator[Value, None, None]:
    """What `values` yields, made in another thread: Ctrl-C ends the reading, and never a forward in its midst.

    Once the reader has left, `values` is closed when it yields the next time.
    """
    queue: SimpleQueue[Any] = SimpleQueue()
    left, end = Flag(), object()

    def make() -> None:
        try:
            with closing(cast(Generator[Value, None, None], values)):
                for value in values:
                    queue.put(value)
                    if left.is_set():
                        return
            queue.put(end)
        except BaseException as error:
            queue.put(error)

    Thread(target=make, name="chat").start()
    try:
        while (value := queue.get()) is not end:
            if isinstance(value, BaseException):
                raise value
            yield value
    finally:
        left.set()
