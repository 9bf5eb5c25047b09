"""Stop strings, whole prompts and given outputs, on the bundled pair."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest

from select_to_think.config import DecodeConfig
from select_to_think.models.prompting import Conversation
from select_to_think.pairs.problems import load_split
from select_to_think.session import Session
from select_to_think.structures import Generation

METHODS = ("greedy", "sample", "s2t-local", "s2t", "llm")
STOP = ("=", "is")


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.load()


@pytest.fixture(scope="module")
def questions() -> list[str]:
    return [problem.question for problem in load_split("validation", limit_per_domain=2)]


@cache
def whole(session: Session, questions: tuple[str, ...], method: str) -> list[Generation]:
    return session.generate(questions, method)


def before(text: str, stop: Sequence[str]) -> str:
    """The plain definition."""
    return min((text.split(string, 1)[0] for string in stop), key=len)


@pytest.mark.parametrize("method", [*METHODS, "mentor-free", "mentor-mlp"])
def test_an_answer_ends_before_the_first_stop_string(session: Session, questions: list[str], method: str) -> None:
    full = whole(session, tuple(questions), method)
    cut = dict(session.stream(questions, method, stop=STOP))
    for index, generation in enumerate(full):
        assert cut[index].text == before(generation.text, STOP) != generation.text
        assert cut[index].text == session.text(generation.tokens, STOP)
        written = cut[index].tokens
        assert written == generation.tokens[: len(written)]
        assert cut[index].finish_reason == "stop"
        assert len(written) < len(generation.tokens)
        assert session.text(written[:-1], STOP) == session.text(written[:-1])


def test_votes_are_extracted_before_the_stop_string(session: Session, questions: list[str]) -> None:
    found: list[str] = []
    list(session.stream(questions[:1], "maj@2", stop=STOP, extract=lambda _, text: found.append(text)))
    assert len(found) == 2 and not any(string in text for text in found for string in STOP)


def test_a_stop_string_is_looked_for_behind_what_had_begun(session: Session, questions: list[str]) -> None:
    (first,) = session.generate(questions[:1], "greedy")
    begun = first.tokens[:3]
    stop = session.text(begun).split()[0]
    asked = Conversation((("user", questions[0]),), begun)
    (answer,) = [answer for _, answer in session.stream([asked], "maj@2", stop=(stop,))]
    assert answer.votes and stop in session.text(begun) and stop not in answer.text


def test_votes_are_extracted_from_the_answer_as_it_began(session: Session, questions: list[str]) -> None:
    found: list[str] = []
    (whole_answer,) = whole(session, tuple(questions[:1]), "greedy")
    asked = Conversation((("user", questions[0]),), whole_answer.tokens[:4])
    list(session.stream([asked], "maj@2", extract=lambda _, text: found.append(text)))
    assert len(found) == 2 and all(text.startswith(session.text(whole_answer.tokens[:4])) for text in found)


@pytest.mark.parametrize("method", METHODS[2:])
def test_the_ids_of_a_prompt_are_as_good_as_its_question(session: Session, questions: list[str], method: str) -> None:
    prompts = [session.prompt(question, 1, with_llm=False) for question in questions]
    found = dict(session.stream(prompts, method))
    assert [found[i].tokens for i in range(len(prompts))] == [
        g.tokens for g in whole(session, tuple(questions), method)
    ]


def test_a_scored_output_is_the_one_that_was_written(session: Session, questions: list[str]) -> None:
    written = whole(session, tuple(questions), "greedy")
    prompts = [session.prompt(question, 1, with_llm=False) for question in questions]
    for batch in (1, 4):
        scored = dict(session.score(prompts, [g.tokens for g in written], DecodeConfig(max_batch=batch)))
        for index, generation in enumerate(written):
            assert scored[index].tokens == generation.tokens
            assert scored[index].logprob == pytest.approx(generation.logprob, abs=1e-4)
            assert all(step.token == step.greedy_token for step in scored[index].steps)
            assert scored[index].counts.slm_forwards == 1
    other = dict(session.score(prompts[:1], [[prompts[0][0]]]))[0]
    assert not any(step.flip for step in other.steps), "nothing was triggered"
    assert other.logprob < -5 and other.steps[0].token != other.steps[0].greedy_token
