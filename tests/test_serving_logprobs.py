"""Log-probabilities, biases and alternatives, against the models themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from select_to_think import Session
from select_to_think.config import DecodeConfig, MentorConfig, MethodSettings
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.pairs.problems import load_split
from select_to_think.runtime import Finished
from select_to_think.serving.answers import Writing
from select_to_think.serving.jobs import Order
from select_to_think.serving.wanted import Ended, Prepared, Written
from select_to_think.structures import Generation, StepRecord
from serve import SMALL, Served, serving

QUESTION = load_split("validation", limit_per_domain=1)[0].question
ALL = ("greedy", "sample", "maj@3", "distill", "llm", "takeover", "s2t", "s2t-local", "mentor-free", "mentor-coin")
ASKED = {"model": "demo:greedy", "messages": [{"role": "user", "content": QUESTION}]}


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.load(runtime=SMALL)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(Session.load(runtime=SMALL)) as found:
        yield found


def logprobs_of(session: Session, ids: list[int], model: str = "slm") -> torch.Tensor:
    """(positions, vocabulary): what follows each token, by a plain forward without the ids that are never written."""
    loaded = getattr(session, model)
    with torch.no_grad():
        logits = loaded.model(torch.tensor([ids])).logits[0].float()
    logits[:, sorted(reserved_ids(loaded))] = -torch.inf
    return torch.log_softmax(logits, -1)


def generate(session: Session, method: str, settings: MethodSettings) -> Generation:
    (event,) = [e for _, e in session.events(session.runs([QUESTION], method, settings), 1) if isinstance(e, Finished)]
    return event.result


@pytest.mark.parametrize("method", ALL)
def test_alternatives_are_the_most_probable_tokens_and_change_nothing(session: Session, method: str) -> None:
    bare = MethodSettings(DecodeConfig(max_new_tokens=40), mentor=MentorConfig(consult_rate=1.0))
    plain = generate(session, method, bare)
    told = generate(session, method, replace(bare, alternatives=5))
    assert [step.token for step in plain.steps] == [step.token for step in told.steps]
    assert not any(step.alternatives for step in plain.steps)
    prompt = session.prompt(QUESTION, 1, with_llm=False)
    seen = {model: logprobs_of(session, [*prompt, *told.tokens], model) for model in ("slm", "llm")}
    for place, step in enumerate(told.steps, len(prompt) - 1):
        assert len(step.alternatives) == 5
        if method == "distill":
            continue  # another model
        model = "llm" if method == "llm" or (method.startswith("mentor") and step.chooser == "llm") else "slm"
        expected = seen[model][place].topk(5)
        assert list(step.alternatives) == expected.indices.tolist()
        assert step.alternative_logprobs == pytest.approx(expected.values.tolist(), abs=1e-3)


def test_chat_logprobs(served: Served, session: Session) -> None:
    whole = served.client.chat.completions.create(**ASKED, logprobs=True, top_logprobs=3)
    prompt = session.prompt(QUESTION, 1, with_llm=False)
    (answer,) = session.generate([QUESTION], "greedy")
    seen = logprobs_of(session, [*prompt, *answer.tokens])
    content = whole.choices[0].logprobs.content
    assert [entry.token for entry in content] == [session.slm.tokenizer.decode([token]) for token in answer.tokens]
    for place, (entry, token) in enumerate(zip(content, answer.tokens, strict=True), len(prompt) - 1):
        expected = seen[place].topk(3)
        assert entry.logprob == pytest.approx(float(seen[place, token]), abs=1e-3)
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(expected.values.tolist(), abs=1e-3)
    text = bytes(byte for entry in content[:-1] for byte in entry.bytes).decode()
    assert text == whole.choices[0].message.content
    stream = served.client.chat.completions.create(**ASKED, logprobs=True, top_logprobs=3, stream=True)
    chunks = [chunk.choices[0].logprobs for chunk in stream]
    assert [entry.token for chunk in chunks if chunk for entry in chunk.content] == [entry.token for entry in content]
    bare = served.client.chat.completions.create(**ASKED, logprobs=True)
    assert [entry.top_logprobs for entry in bare.choices[0].logprobs.content] == [[]] * len(content)
    assert served.client.chat.completions.create(**ASKED).choices[0].logprobs is None


@pytest.mark.parametrize("method", ["greedy", "s2t-local", "llm", "distill"])
def test_a_prompt_is_scored_as_the_session_scores_it(served: Served, session: Session, method: str) -> None:
    prompts = [session.prompt(QUESTION, 1, with_llm=False), session.slm.tokenizer("Ida has 23 keys.").input_ids]
    answer = served.client.completions.create(
        model=f"demo:{method}", prompt=prompts, max_tokens=1, logprobs=2, echo=True,
        extra_body={"return_tokens_as_token_ids": True},
    )  # fmt: skip
    model = "llm" if method == "llm" else "slm"
    scored = dict(session.score([ids[:1] for ids in prompts], [ids[1:] for ids in prompts]))
    for place, (choice, ids) in enumerate(zip(answer.choices, prompts, strict=True)):
        told = choice.logprobs
        assert [int(token.removeprefix("token_id:")) for token in told.tokens][:-1] == ids
        assert told.token_logprobs[0] is told.top_logprobs[0] is None
        seen = logprobs_of(session, ids, model)
        if method != "distill":
            expected = [float(seen[i, token]) for i, token in enumerate(ids[1:])]
            assert told.token_logprobs[1:-1] == pytest.approx(expected, abs=1e-3)
        if model == "slm" and method != "distill":
            assert told.token_logprobs[1:-1] == pytest.approx([s.logprob for s in scored[place].steps], abs=1e-4)
            greedy = [max(top, key=top.get) for top in told.top_logprobs[1:-1]]
            assert greedy == [f"token_id:{step.greedy_token}" for step in scored[place].steps]
        assert all(f"token_id:{token}" in top for token, top in zip(ids[1:], told.top_logprobs[1:-1], strict=True))
        assert all(2 <= len(top) <= 3 for top in told.top_logprobs[1:])
    assert answer.usage.prompt_tokens == sum(map(len, prompts)) and answer.usage.completion_tokens == 2


def test_offsets_point_into_the_text(served: Served) -> None:
    for stream in (False, True):
        sent: dict[str, Any] = {"model": "demo", "prompt": QUESTION, "logprobs": 0, "echo": True, "max_tokens": 12}
        answer = served.client.completions.create(**sent, stream=stream)
        choices = [chunk.choices[0] for chunk in (answer if stream else [answer])]
        text = "".join(choice.text for choice in choices)
        tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.tokens]
        offsets = [offset for choice in choices if choice.logprobs for offset in choice.logprobs.text_offset]
        assert text.startswith(QUESTION) and "".join(tokens) == text
        assert offsets == [0, *accumulate(map(len, tokens))][:-1]


def test_log_probabilities_of_given_tokens(served: Served, session: Session) -> None:
    prompt, ids = session.prompt(QUESTION, 1, with_llm=True), [5, 700, 1200, 9]
    for model in ("slm", "llm"):
        expected = logprobs_of(session, prompt, model)[-1]
        answer = served.client.completions.create(
            model="demo:greedy" if model == "slm" else "demo:llm", prompt=prompt, max_tokens=1, temperature=0,
            logprobs=0, extra_body={"logprob_token_ids": ids, "return_tokens_as_token_ids": True},
        )  # fmt: skip
        (top,) = answer.choices[0].logprobs.top_logprobs
        best = int(expected.argmax())
        assert set(top) == {f"token_id:{token}" for token in (*ids, best)}
        for token in (*ids, best):
            told = top[f"token_id:{token}"]
            assert told == pytest.approx(max(-9999.0, float(expected[token])), abs=1e-3)


def test_a_prompt_of_one_token_has_nothing_to_score(served: Served) -> None:
    answer = served.client.completions.create(
        model="demo:greedy", prompt=[[700], [700, 701]], max_tokens=1, logprobs=1, echo=True
    )
    for choice, length in zip(answer.choices, (1, 2), strict=True):
        told = choice.logprobs
        assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == length + 1
        assert [logprob is None for logprob in told.token_logprobs] == [True] + [False] * length


@pytest.mark.parametrize("method", ALL)
def test_a_forbidden_token_is_never_written(served: Served, session: Session, method: str) -> None:
    sent = {
        "messages": ASKED["messages"],
        "seed": 1,
        "max_tokens": 40,
        "s2t": {"method": method, "trace": True, "consult_rate": 1.0},
    }
    first = served.post("/v1/chat/completions", sent).json()
    written = {step["token"] for step in first["choices"][0]["s2t"]["steps"]}
    common = sorted(written - set(session.stop_ids))[::2]
    bias = {str(token): -100 for token in common}
    second = served.post("/v1/chat/completions", {**sent, "logit_bias": bias}).json()
    assert not set(common) & {step["token"] for step in second["choices"][0]["s2t"]["steps"]}
    assert served.post("/v1/chat/completions", sent).json()["choices"] == first["choices"]  # neighbours see no bias


def test_a_bias_is_added_to_the_logits(served: Served, session: Session) -> None:
    prompt = session.prompt(QUESTION, 1, with_llm=False)
    plain = logprobs_of(session, prompt)[-1]
    bias = {int(token): float(nats) for token, nats in zip(plain.topk(4).indices, (-3.0, 2.5, 1.0, 0.5), strict=True)}
    changed = plain.clone()
    for token, nats in bias.items():
        changed[token] += nats
    expected = torch.log_softmax(changed, -1).topk(5)
    answer = served.client.completions.create(
        model="demo:greedy", prompt=prompt, max_tokens=1, logprobs=5, logit_bias={str(k): v for k, v in bias.items()},
        extra_body={"return_tokens_as_token_ids": True},
    )  # fmt: skip
    (top,) = answer.choices[0].logprobs.top_logprobs
    assert list(top) == [f"token_id:{token}" for token in expected.indices.tolist()]
    assert list(top.values()) == pytest.approx(expected.values.tolist(), abs=1e-3)


def test_a_character_comes_whole(session: Session) -> None:
    text = "für 5 € 😀 und 漢字."
    ids = session.slm.tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) > len(text.split()) + 8, "the characters must be several tokens"
    order = Order(
        session_method("greedy"), Prepared(None, None), MethodSettings(stop=("字",)), [1], (), answering=object()
    )  # type: ignore[arg-type]
    writing = Writing(session, order, trace=True, alternatives=0)
    deltas = [writing.add(written(token)) for token in ids]
    assert not any("\ufffd" in delta.text for delta in deltas)
    assert "".join(delta.text for delta in deltas) == session.text(ids, ["字"]) == text.split("字")[0]
    assert "".join(step["text_added"] for delta in deltas for step in delta.steps) == session.text(ids)
    begun = replace(order, settings=MethodSettings(), begun=tuple(ids[:9]))
    writing = Writing(session, begun, trace=False, alternatives=None)
    rest = "".join(writing.add(written(token)).text for token in ids[9:])
    assert session.text(ids[:9]).rstrip("\ufffd") + rest == session.text(ids)


def written(token: int) -> Written:
    return Written((token,), (StepRecord(token, -1.0),))


def session_method(name: str) -> Any:
    from select_to_think.methods import find_method

    return find_method(name)


def test_several_tokens_of_one_text_are_told_apart(served: Served) -> None:
    answer = served.client.completions.create(
        model="demo:greedy", prompt="😀", max_tokens=1, logprobs=5, echo=True, logit_bias={"3": -5}
    )
    tokens = answer.choices[0].logprobs.tokens
    assert tokens[:-1] == ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80"]


class Letters:
    """A session whose tokens are texts of their own."""

    def __init__(self, pieces: list[str]) -> None:
        self.slm = SimpleNamespace(tokenizer=self)
        self.pieces = pieces

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(self.pieces[token] for token in tokens)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_what_may_become_a_stop_string_waits(pieces: list[str], stops: list[str]) -> None:
    order: Any = SimpleNamespace(begun=(), answering=object(), echo="", settings=MethodSettings(stop=tuple(stops)))
    session: Any = Letters(pieces)
    writing = Writing(session, order, trace=False, alternatives=None)
    shown = so_far = ""
    for token, piece in enumerate(pieces):
        shown += writing.add(written(token)).text
        so_far += piece
        if any(stop in so_far for stop in stops):  # nothing is written behind it
            break
        ends = [n for n in range(len(so_far)) if any(stop.startswith(so_far[n:]) for stop in stops)]
        assert shown == so_far[: min(ends, default=None)], "as much as is certain, and no more"
    assert shown + writing.finish(Ended("stop")).text == cut(so_far, stops)


def cut(text: str, stops: list[str]) -> str:
    return text[: min((at for at in map(text.find, stops) if at >= 0), default=None)]
