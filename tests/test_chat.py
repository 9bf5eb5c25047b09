"""`s2t chat` without a terminal: what is asked of whom, what commands change and show, and what goes into a pipe."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drive import free_slots
from select_to_think.cli import app
from select_to_think.cli.chat.commands import COMMANDS, completions, converse
from select_to_think.cli.chat.dialogue import Dialogue, Example, Turn
from select_to_think.cli.chat.lines import typed
from select_to_think.cli.chat.local import LocalChat, from_a_thread
from select_to_think.cli.output import console
from select_to_think.cli.trace import Ending, Part
from select_to_think.config import DecodeConfig, MethodSettings, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.models.prompting import Conversation
from select_to_think.session import Session
from select_to_think.structures import S2TError
from select_to_think.triggers.table import TRIGGERS
from tiny import tiny_loaded

QUESTION = "Today Ida has 27 keys. Ida lends 5 keys. Kira has 48 keys. Ida lends 7 keys. How many keys does Ida have?"
FLIPPED = "First Ida has 27 - 5 = 22 keys. Ida has 22 - 7 = 15 keys. The answer is 15."


def option(token: int, text: str, logprob: float, score: float | None = None) -> dict[str, Any]:
    return {"id": token, "text": text, "logprob": logprob, "score": score}


def step(index: int, text: str, **known: Any) -> dict[str, Any]:
    return {
        "index": index,
        "token": 100 + index,
        "text": text,
        "text_added": text,
        "greedy": 100 + index,
        "statistic": 0.25,
        "candidates": [],
        "choice": None,
        "chooser": "slm",
        "flip": False,
        "llm_top": None,
        "logprob": -0.5,
        "fired": False,
        "llm_failed": False,
        "alternatives": [
            {"id": 100 + index, "text": text, "logprob": -0.6931},
            {"id": 7, "text": " other", "logprob": -2.0},
        ],
        **known,
    }


FLIP = step(
    1,
    " two",
    fired=True,
    flip=True,
    statistic=0.75,
    greedy=7,
    chooser="scorer",
    choice=1,
    llm_top=8,
    candidates=[option(7, " zwei", -0.2231, 0.125), option(101, " two", -1.6094, 4.5), option(8, " deux", -3.0, 0.5)],
)
STEPS = [step(0, "one"), FLIP, step(2, " three")]


class Script:
    """Answers as it was told to, and remembers what it was asked."""

    name, default = "script", "s2t-local"

    def __init__(self, *answers: Any, examples: Sequence[Example] = ()) -> None:
        self.answers, self.found = list(answers), examples
        self.asked: list[tuple[list[Turn], str | None, MethodSettings]] = []

    def methods(self) -> dict[str, str]:
        return {"greedy": "the best token", "s2t-local": "the scorer selects"}

    def examples(self) -> Sequence[Example]:
        return self.found

    def reply(
        self, turns: Sequence[Turn], method: str | None, settings: MethodSettings, named: Collection[str] = ()
    ) -> Generator[Part, None, None]:
        self.asked.append((list(turns), method, settings))
        for part in self.answers.pop(0) if self.answers else STEPS:
            if isinstance(part, BaseException):
                raise part
            yield part
        yield Ending("stop", method or self.default, {}, (), "entropy", 0.5)


def talk(chat: Script, *lines: str, interactive: bool = True, settings: MethodSettings = MethodSettings()) -> str:
    """What is shown of a conversation."""
    screen = io.StringIO()
    shown = console(screen)
    shown.width = 140  # whatever the environment says
    converse(Dialogue(chat, None, settings, shown, interactive=interactive), lines)
    return screen.getvalue()


def test_a_question_is_answered_and_remembered() -> None:
    chat = Script()
    assert talk(chat, "first?", "", "  ", " /second?") == "one two three\n" * 2
    assert [turns for turns, _, _ in chat.asked] == [
        [("user", "first?")],
        [("user", "first?"), ("assistant", "one two three"), ("user", "/second?")],
    ]


def test_the_bundled_pair_is_asked_one_question_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    chat = Script(examples=[Example("a", "what?", "three"), Example("b", "who?", "Ida")])
    shown = talk(chat, "first?", "/example", "/example", "/example")
    assert [turns for turns, _, _ in chat.asked] == [[("user", q)] for q in ("first?", "what?", "who?", "what?")]
    assert shown.count("what?\none two three\n") == 2
    assert capsys.readouterr().err.count("right answer: three") == 2
    with pytest.raises(S2TError, match="only the bundled pair"):
        talk(Script(), "/example", interactive=False)


def test_settings_change_from_the_next_answer_on() -> None:
    chat = Script()
    talk(chat, "a", "/method greedy", "/budget 0.2", "/candidates 4", "/trigger margin", "b", "/trigger default", "c")
    (_, first, before), (_, second, after), (_, _, last) = chat.asked
    assert (first, second) == (None, "greedy")
    assert before == MethodSettings()
    assert after.select == SelectConfig(trigger="margin", trigger_budget=0.2, candidates=4)
    assert last.select == SelectConfig(trigger_budget=0.2, candidates=4)


def test_settings_are_shown() -> None:
    shown = talk(Script(), "/method", "/trigger")
    assert "*  s2t-local  the scorer selects" in shown and "   greedy" in shown
    assert "*  default" in shown and "margin" in shown and "the SLM's two best tokens are close" in shown


@pytest.mark.parametrize(
    ("line", "needle"),
    [
        ("/mehtod", "did you mean '/method'"),
        ("/", "choose from: /method"),
        ("/method s2t-locale", "did you mean 's2t-local'"),
        ("/trigger entrpy", "did you mean 'entropy'"),
        ("/budget much", "'much' is no number"),
        ("/budget nan", "trigger_budget must be between"),
        ("/budget 3", "trigger_budget must be between"),
        ("/candidates 2.5", "'2.5' is no whole number"),
        ("/candidates 0", "candidates must be at least 1"),
        ("/why", "no answer yet"),
        ("/why 0", "no answer yet"),
        ("/retry", "nothing was asked yet"),
        ("/example", "only the bundled pair"),
        ("/reset now", "takes no argument"),
    ],
)
def test_a_mistake_is_one_line_and_the_conversation_goes_on(
    line: str, needle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Script()
    assert talk(chat, line, "a") == "one two three\n"
    said = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    assert len(said) == 1 and needle in said[0]
    assert chat.asked[0][2] == MethodSettings()
    with pytest.raises(S2TError):
        talk(Script(), line, "a", interactive=False)


def test_no_command_is_without_help_and_completion() -> None:
    shown = talk(Script(), "/help")
    assert all(f"/{name}" in shown and command.help in shown for name, command in COMMANDS.items())
    dialogue = Dialogue(Script(), None, MethodSettings(), console(io.StringIO()), interactive=True)
    assert completions(dialogue, "/") == [f"/{name}{' ' if c.argument else ''}" for name, c in COMMANDS.items()]
    assert completions(dialogue, "/me") == ["/method "] and completions(dialogue, "/method g") == ["greedy"]
    assert completions(dialogue, "/trigger ") == ["default", *TRIGGERS]
    assert completions(dialogue, "/why ") == completions(dialogue, "/nonsense x") == completions(dialogue, "me") == []


def test_why_a_step_did_not_trigger() -> None:
    shown = talk(Script(), "a", "/why 2").split("\n", 1)[1].splitlines()
    assert shown[0] == "one two [three]"
    assert shown[1] == "step 2, token 102: entropy 0.250 <= 0.500, so it did not trigger; the greedy token stands"
    assert [line.split() for line in shown[2:]] == [
        ["rank", "token", "SLM", "probability"],
        ["1", "three", "50.0", "%", "chosen,", "greedy"],
        ["2", "other", "13.5", "%"],
    ]


def test_why_a_step_triggered() -> None:
    shown = talk(Script(), "a", "/why 1").split("\n", 1)[1].splitlines()
    assert shown[0] == "one [two] three"
    assert shown[1] == "step 1, token 101: entropy 0.750 > 0.500, so it triggered; chosen by the scorer"
    assert [line.split() for line in shown[2:]] == [
        ["rank", "token", "SLM", "probability", "score"],
        ["1", "zwei", "80.0", "%", "0.125", "greedy"],
        ["2", "two", "20.0", "%", "4.500", "chosen"],
        ["3", "deux", "5.0", "%", "0.500", "the", "LLM's", "best"],
    ]


def test_why_where_nothing_was_decided_or_nobody_answered(capsys: pytest.CaptureFixture[str]) -> None:
    silent = step(0, "a", statistic=None, alternatives=[])
    unasked = step(3, "e", statistic=None, llm_failed=True)
    failed = step(1, "b", fired=True, llm_failed=True, candidates=[option(101, "b", -0.1)])
    taken = step(
        2, "c d", text_added="c", statistic=None, fired=True, chooser="llm", candidates=[option(102, "c d", -0.1, 0.9)]
    )
    shown = talk(Script([silent, failed, taken, unasked]), "q", "/why 0", "/why 1", "/why 2", "/why 3")
    assert "4 tokens · 2 triggered · 0 flipped" in (said := capsys.readouterr().err)
    assert "2 without the LLM, which did not answer" in said
    assert "step 0, token 100: no trigger here; chosen by the SLM\n" in shown
    assert "step 1, token 101: entropy 0.250 > 0.500, so it triggered; the LLM did not answer" in shown
    assert "step 2, token 102: chosen by the LLM\n" in shown
    assert "step 3, token 103: the LLM did not answer, so the SLM's own choice stands\n" in shown


def test_why_lists_what_triggered_and_knows_its_range(capsys: pytest.CaptureFixture[str]) -> None:
    shown = talk(Script(), "a", "/why", "/why 3", "/why -1")
    assert "triggered steps" in shown and "two: 4.50  deux: 0.50  zwei: 0.12" in shown
    said = capsys.readouterr().err
    assert "/why N explains step N, from 0 to 2" in said and said.count("choose one from 0 to 2") == 2


def test_retry_asks_again_with_the_next_seed() -> None:
    chat = Script()
    talk(chat, "a", "b", "/method greedy", "/retry")
    before, after = chat.asked[1:]
    assert before[0] == after[0] and after[1] == "greedy"
    assert after[2].decode.seed == before[2].decode.seed + 1


def test_retry_asks_again_what_could_not_be_answered() -> None:
    chat = Script(STEPS, [S2TError("no such model")], [S2TError("no such model")])
    talk(chat, "a", "b", "/method greedy", "/retry", "/method s2t", "/retry")
    assert [turns[-1] for turns, _, _ in chat.asked[1:]] == [("user", "b")] * 3
    assert all(turns[:-1] == [("user", "a"), ("assistant", "one two three")] for turns, _, _ in chat.asked[1:])


def test_reset_forgets() -> None:
    chat = Script()
    talk(chat, "a", "/reset", "/retry", "/why 0", "b", "/retry")
    assert [turns for turns, _, _ in chat.asked][1:] == [[("user", "b")]] * 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), S2TError("the server broke off")])
def test_an_answer_that_was_stopped_leaves_what_was_written(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Script([STEPS[0], FLIP, error], [error])
    shown = talk(chat, "a", "/why 1", "b", "c", "/why 1")
    assert "step 1, token 101: statistic 0.750, so it triggered; chosen by the scorer\n" in shown  # threshold unknown
    shown = shown.replace(shown[shown.index("one [") : shown.index("one two three")], "")
    assert shown.startswith("one two\none two three\n") and "[two]" in shown
    assert chat.asked[-1][0] == [("user", "a"), ("assistant", "one two"), ("user", "c")]  # b was not answered at all
    said = capsys.readouterr().err
    assert said.count("stopped" if isinstance(error, KeyboardInterrupt) else "error: the server broke off") == 2
    with pytest.raises(type(error)):
        talk(Script([error]), "a", interactive=False)


@pytest.mark.parametrize(("terminal", "prompt"), [(True, "> "), (False, "")])
def test_the_prompt_is_for_a_terminal(terminal: bool, prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []

    def typed_line(shown: str) -> str:
        prompts.append(shown)
        if len(prompts) == 2:
            raise KeyboardInterrupt
        if len(prompts) == 3:
            raise EOFError
        return "a"

    monkeypatch.setattr("builtins.input", typed_line)
    monkeypatch.setattr("sys.stdout", screen := io.StringIO())
    monkeypatch.setattr(screen, "isatty", lambda: terminal)
    assert list(typed()) == ["a"] and prompts == [prompt] * 3 and not screen.getvalue()


@given(
    st.lists(
        st.one_of(
            st.text(),
            st.tuples(st.sampled_from(sorted(COMMANDS)), st.text() | st.integers().map(str) | st.floats().map(str)).map(
                lambda pair: f"/{pair[0]} {pair[1]}"
            ),
        ),
        max_size=6,
    )
)
@settings(deadline=None, derandomize=True)
def test_whatever_is_typed_is_answered_or_refused(lines: list[str]) -> None:
    chat = Script(examples=[Example("a", "what?", "three")])
    talk(chat, *lines)
    assert all(turns[-1][0] == "user" and turns[-1][1].strip() for turns, _, _ in chat.asked)
    assert all(0 <= asked.select.trigger_budget <= 1 <= asked.select.candidates for _, _, asked in chat.asked)


def test_a_defect_is_no_mistake_of_the_user() -> None:
    with pytest.raises(ZeroDivisionError):
        talk(Script([ZeroDivisionError("ours")]), "a")


# -- a pair in this process


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.load()


def run(lines: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    return app.main(["chat", *arguments])


def test_a_pipe_gets_the_answers_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{QUESTION}\n\n/method greedy\n/retry", monkeypatch=monkeypatch) == 0
    out, err = capfd.readouterr()
    assert out == f"{FLIPPED}\n{FLIPPED.replace('-', '+').replace('22', '32').replace('15', '39')}\n"
    assert "one kind of question" in err and "\x1b" not in err


def test_json_holds_every_answer_with_its_trace(
    session: Session, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{QUESTION}\n/method s2t\n{QUESTION}\n", "--json", monkeypatch=monkeypatch) == 0
    answers = json.loads(capfd.readouterr().out)["answers"]
    assert [answer["method"] for answer in answers] == ["s2t-local", "s2t"]
    assert [answer["trigger"] for answer in answers] == ["entropy", "kl"]
    local, (alone,) = answers[0], session.generate([QUESTION])
    assert local["text"] == alone.text == "".join(each["text_added"] for each in local["steps"])
    assert [each["token"] for each in local["steps"]] == list(alone.tokens)
    assert all(each["fired"] == (each["statistic"] > local["threshold"]) for each in local["steps"])
    assert all(len(each["alternatives"]) == 8 for each in local["steps"])
    assert local["counts"]["slm_forwards"] == alone.counts.slm_forwards


@pytest.mark.parametrize(
    ("lines", "arguments", "needle"),
    [
        ("/nonsense\n", (), "unknown command"),
        ("q\n", ("--method", "greedey"), "did you mean 'greedy'"),
        ("q\n", ("--url", "http://127.0.0.1:9"), "nobody answers at http://127.0.0.1:9"),
        ("q\n", ("--url", "127.0.0.1:9"), "cannot be asked"),
        ("q\n", ("--url", "http://127.0.0.1:9", "--slm", "x"), "leave out --slm"),
        ("q\n", ("--url", "http://127.0.0.1:9", "--kv-memory-gib", "1"), "leave out --kv-memory-gib"),
        ("\ud800\n", (), "half a character"),
        (f"{'x ' * 2000}\n", (), "exceed the context"),
    ],
)
def test_mistakes_in_a_pipe(
    lines: str,
    arguments: Sequence[str],
    needle: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(lines, *arguments, monkeypatch=monkeypatch) == 2
    out, err = capfd.readouterr()
    assert not out and err.splitlines()[-1].startswith("error: ") and needle in err.splitlines()[-1]


def test_every_method_streams_what_it_generates(session: Session) -> None:
    chat, decode = LocalChat(session), DecodeConfig(max_new_tokens=40, max_batch=4)
    for method in chat.methods():
        *steps, ending = chat.reply([("user", QUESTION)], method, MethodSettings(decode))
        (alone,) = session.generate([QUESTION], method, decode)
        assert [each["token"] for each in steps] == list(alone.tokens), method
        assert "".join(each["text_added"] for each in steps) + ending.tail == alone.text
        assert (ending.method, ending.votes, ending.finish_reason) == (method, alone.votes, alone.finish_reason)
        assert (
            (ending.threshold is None) == (ending.trigger is None) == (method not in ("s2t", "s2t-local", "takeover"))
        )


def test_a_conversation_is_heard_by_a_model_with_a_template_and_by_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_loaded(0)
    chat = LocalChat(Session(PairConfig(slm="tiny"), slm=loaded))
    turns = [("user", "w5"), ("assistant", "w6"), ("user", "w7")]
    heard: list[Any] = []
    monkeypatch.setattr(chat, "answer", lambda question, method, settings: heard.append(question))
    for template in (None, "{% for message in messages %}{{ message['content'] }} {% endfor %}"):
        monkeypatch.setattr(loaded.tokenizer, "chat_template", template)
        chat.reply(turns, "greedy", MethodSettings())
    assert heard == [Conversation((turns[-1],)), Conversation(tuple(turns))]
    assert not chat.examples()


def test_an_answer_that_is_left_leaves_no_row() -> None:
    session = Session(
        PairConfig(slm="tiny"), slm=tiny_loaded(0), llm=tiny_loaded(1, 3), runtime=RuntimeConfig(kv_memory_gib=0.01)
    )
    chat, settings = LocalChat(session), MethodSettings(DecodeConfig(max_new_tokens=200))
    list(chat.reply([("user", "w5")], "greedy", settings))
    free = free_slots(session.backends["slm"].extents)
    with closing(chat.reply([("user", "w5")], "greedy", settings)) as parts:
        next(parts)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.name.startswith("chat"):
            thread.join()
    assert not session.streams.runtime.busy and "extents" in vars(session.backends["slm"])
    assert free_slots(session.backends["slm"].extents) == free


def test_values_come_from_another_thread_and_end_with_their_reader() -> None:
    made: list[str] = []
    ended, go_on = threading.Event(), threading.Event()

    def values() -> Iterator[int]:
        made.append(threading.current_thread().name)
        try:
            yield 1
            go_on.wait(10)
            yield 2
            raise AssertionError("nobody reads any more")
        finally:
            ended.set()

    reader = from_a_thread(values())
    assert next(reader) == 1
    reader.close()
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(10) and made[0] != threading.current_thread().name


def test_what_another_thread_raises_reaches_the_reader() -> None:
    def values() -> Iterator[int]:
        yield 1
        raise S2TError("no such thing")

    reader = from_a_thread(values())
    assert next(reader) == 1
    with pytest.raises(S2TError, match="no such thing"):
        next(reader)
