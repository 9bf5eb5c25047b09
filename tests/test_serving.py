"""The server answers what the library answers, to OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

from select_to_think import Session
from select_to_think.config import DecodeConfig, MentorConfig, MethodSettings, PairConfig, SelectConfig
from select_to_think.pairs.problems import load_split
from select_to_think.serving.errors import ClientGone
from select_to_think.serving.readers import CHUNK_SECONDS, Client, joined
from select_to_think.serving.wanted import Ended, Written
from select_to_think.structures import S2TError, StepRecord
from serve import SMALL, Served, serving

QUESTIONS = [problem.question for problem in load_split("validation", limit_per_domain=2)]
METHODS = ["greedy", "sample", "maj@4", "distill", "llm", "takeover", "s2t", "s2t-local", "mentor-free", "mentor-mlp"]
SEED = 5


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.load(runtime=SMALL)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(Session.load(runtime=SMALL)) as found:
        yield found


def messages(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


def tokens(steps: list[dict[str, Any]]) -> tuple[int, ...]:
    return tuple(step["token"] for step in steps)


def own(**fields: Any) -> dict[str, Any]:
    return {"s2t": fields}


async def streamed(client: openai.AsyncOpenAI, question: str, method: str) -> tuple[str, tuple[int, ...], str, Any]:
    stream = await client.chat.completions.create(
        model=f"demo:{method}", messages=messages(question), seed=SEED, stream=True,
        stream_options={"include_usage": True}, extra_body=own(trace=True),
    )  # fmt: skip
    text, steps, reasons, usage = "", [], [], None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            steps += choice.s2t["steps"] if hasattr(choice, "s2t") else []
            reasons += [choice.finish_reason] if choice.finish_reason else []
    (reason,) = reasons
    return text, tokens(steps), reason, usage


async def whole(client: openai.AsyncOpenAI, question: str, method: str) -> tuple[str, tuple[int, ...], str, Any]:
    answer = await client.chat.completions.create(
        model="demo", messages=messages(question), seed=SEED, extra_body=own(trace=True, method=method)
    )
    (choice,) = answer.choices
    return choice.message.content or "", tokens(choice.s2t["steps"]), choice.finish_reason, answer.usage


def test_every_method_answers_what_the_library_answers_all_in_one_batch(served: Served, session: Session) -> None:
    cases = [(question, method) for method in METHODS for question in QUESTIONS[:: 2 if method == "llm" else 3]]

    async def ask() -> list[Any]:
        async with served.async_client as client:
            return await asyncio.gather(*(form(client, *case) for case in cases for form in (streamed, whole)))

    found = asyncio.run(ask())
    for place, (question, method) in enumerate(cases):
        (expected,) = session.generate([question], method, DecodeConfig(seed=SEED))
        for text, ids, reason, usage in found[2 * place : 2 * place + 2]:
            assert (text, ids, reason) == (expected.text, expected.tokens, expected.finish_reason), method
            assert usage.completion_tokens == len(expected.tokens)
            assert usage.prompt_tokens == len(session.prompt(question, 1, with_llm=False))
            assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
            assert (usage.s2t["triggered"], usage.s2t["flips"]) == (expected.fired_count, expected.flip_count)
            assert usage.s2t["llm_tokens_generated"] == expected.counts.llm_tokens_generated
    assert served.get("/v1/s2t/state")["rows"] == 0


def test_the_synchronous_client(served: Served, session: Session) -> None:
    client = served.client
    (expected,) = session.generate(QUESTIONS[:1])
    answer = client.chat.completions.create(model="demo", messages=messages(QUESTIONS[0]))
    assert answer.choices[0].message.content == expected.text and answer.object == "chat.completion"
    assert answer.model == "demo:s2t-local" and not hasattr(answer.choices[0], "s2t")
    chunks = list(client.chat.completions.create(model="demo", messages=messages(QUESTIONS[0]), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
    assert {chunk.id for chunk in chunks} == {chunks[0].id} and chunks[0].choices[0].delta.role == "assistant"
    with client.chat.completions.stream(model="demo", messages=messages(QUESTIONS[0])) as stream:
        assert stream.get_final_completion().choices[0].message.content == expected.text
    chunks = list(client.completions.create(model="demo", prompt="First Ida", stream=True, max_tokens=5))
    assert chunks[-1].choices[0].finish_reason == "length"


def test_prompts_of_four_kinds(served: Served, session: Session) -> None:
    ids = [session.prompt(question, 8, with_llm=False) for question in QUESTIONS]
    expected = [answer.text for answer in session.generate(ids, "greedy", DecodeConfig(max_new_tokens=8))]
    texts = [session.slm.tokenizer.decode(prompt) for prompt in ids]
    prompts: list[Any] = [texts[0], texts, ids[0], ids]
    for prompt in prompts:
        answer = served.client.completions.create(model="demo:greedy", prompt=prompt, max_tokens=8)
        told = [choice.text for choice in answer.choices]
        assert told == expected[: len(told)] and [choice.index for choice in answer.choices] == list(range(len(told)))
        assert len(told) == (len(ids) if prompt in (texts, ids) else 1)
        assert answer.usage is not None and answer.usage.prompt_tokens == sum(map(len, ids[: len(told)]))
    answer = served.client.completions.create(model="demo:greedy", prompt=texts[0])
    assert answer.usage is not None and answer.usage.completion_tokens == 16  # OpenAI's default


def test_several_answers_have_seeds_of_their_own(served: Served, session: Session) -> None:
    def ask(**fields: Any) -> list[str]:
        sent = {"model": "demo:sample", "temperature": 2, "n": 3, **fields}
        answer = served.client.chat.completions.create(messages=messages(QUESTIONS[0]), **sent)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(session.prompt(QUESTIONS[0], 1, with_llm=False))
        return [choice.message.content for choice in answer.choices]

    expected = [
        session.generate(QUESTIONS[:1], "sample", DecodeConfig(temperature=2, seed=SEED + i))[0].text for i in range(3)
    ]
    assert ask(seed=SEED) == expected and len(set(expected)) == 3
    assert ask() != ask()  # without a seed each draw is another
    assert ask(seed=-1) == ask(seed=2**32 - 1)
    (greedy,) = session.generate(QUESTIONS[:1], "greedy")
    assert ask(temperature=0) == ask(model="demo:maj@4", temperature=0.001) == [greedy.text] * 3
    assert ask(model="demo:greedy") == [greedy.text] * 3  # a method that does not draw does not care


@pytest.mark.parametrize("stop", [".", " coins", ["zzz", "The answer", "= "], "never"])
def test_stop_strings_are_never_shown(served: Served, session: Session, stop: Any) -> None:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    ((_, expected),) = session.stream(QUESTIONS[:1], "greedy", stop=strings)
    sent: dict[str, Any] = {"model": "demo:greedy", "messages": messages(QUESTIONS[0]), "stop": stop}
    answer = served.client.chat.completions.create(**sent)
    assert answer.choices[0].message.content == expected.text
    chunks = list(served.client.chat.completions.create(**sent, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
    assert answer.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "stop"


def test_settings_of_the_method(served: Served, session: Session) -> None:
    select = SelectConfig(trigger="margin", trigger_budget=0.2, candidates=3, scorer_mode="coupled", score="bins")
    fields = {"trigger": "margin", "trigger_budget": 0.2, "candidates": 3, "scorer_mode": "coupled", "score": "bins"}
    (expected,) = session.generate(QUESTIONS[:1], "s2t-local", select=select)
    answer = served.client.chat.completions.create(
        model="demo", messages=messages(QUESTIONS[0]), extra_body=own(trace=True, **fields)
    )
    trace = answer.choices[0].s2t  # type: ignore[attr-defined]
    assert tokens(trace["steps"]) == expected.tokens and trace["trigger"] == "margin"
    fired = [step for step in trace["steps"] if step["fired"]]
    assert len(fired) == expected.fired_count > 0
    assert all(len(step["candidates"]) == 3 and step["statistic"] > trace["threshold"] for step in fired)


@pytest.mark.parametrize(("preset", "method"), [("s2t-paper", "s2t"), ("mentorcollab-paper", "mentor-free")])
def test_a_preset_is_what_its_settings_are(served: Served, session: Session, preset: str, method: str) -> None:
    select, mentor = SelectConfig(trigger_budget=0.2), MentorConfig(consult_rate=0.9)
    beside = {"trigger_budget": 0.2, "consult_rate": 0.9}
    if method == "s2t":
        select = SelectConfig.preset(preset, trigger_budget=0.2)
    else:
        mentor = MentorConfig.preset(preset, consult_rate=0.9)
    for question in QUESTIONS[:3]:
        (expected,) = session.generate([question], method, DecodeConfig(), select, mentor)
        answer = served.client.chat.completions.create(
            model="demo",
            messages=messages(question),
            extra_body=own(method=method, preset=preset, trace=True, **beside),
        )
        trace = answer.choices[0].s2t  # type: ignore[attr-defined]
        assert tokens(trace["steps"]) == expected.tokens
        assert [step["fired"] for step in trace["steps"]] == [step.fired for step in expected.steps]


def test_the_trace_is_that_of_the_command(served: Served, session: Session) -> None:
    from select_to_think.cli.generate import describe

    (answer,) = session.generate(QUESTIONS[:1], "s2t")
    told = served.post(
        "/v1/chat/completions", {"messages": messages(QUESTIONS[0]), **own(method="s2t", trace=True, alternatives=0)}
    )
    trace = told.json()["choices"][0]["s2t"]
    described = json.loads(json.dumps(describe(QUESTIONS[0], answer, session)))
    assert [without_numbers(step) for step in trace["steps"]] == [without_numbers(step) for step in described["steps"]]
    assert "".join(step["text_added"] for step in trace["steps"]) == answer.text
    assert trace["counts"]["llm_forwards"] == answer.counts.llm_forwards and trace["trigger"] == "kl"
    more = served.post("/v1/chat/completions", {"messages": messages(QUESTIONS[0]), **own(trace=True)})
    assert all(len(step["alternatives"]) == 8 for step in more.json()["choices"][0]["s2t"]["steps"])


def without_numbers(value: Any) -> Any:
    """Rounding depends on the batch."""
    if isinstance(value, dict):
        return {key: without_numbers(entry) for key, entry in value.items()}
    return (
        [without_numbers(entry) for entry in value]
        if isinstance(value, list)
        else round(value, 2)
        if isinstance(value, float)
        else value
    )


@pytest.mark.parametrize("method", ["greedy", "distill", "llm", "takeover", "s2t", "s2t-local"])
def test_an_answer_that_has_begun_goes_on_as_it_did(served: Served, session: Session, method: str) -> None:
    (answer,) = session.generate(QUESTIONS[:1], method)
    for begun in (1, len(answer.tokens) // 2):
        found = served.client.chat.completions.create(
            model=f"demo:{method}", messages=messages(QUESTIONS[0]),
            extra_body=own(answer_tokens=answer.tokens[:begun], trace=True),
        )  # fmt: skip
        rest = tokens(found.choices[0].s2t["steps"])  # type: ignore[attr-defined]
        assert rest == answer.tokens[begun:]
        assert session.text(answer.tokens[:begun]) + (found.choices[0].message.content or "") == answer.text
        assert found.usage is not None
        assert found.usage.prompt_tokens == len(session.prompt(QUESTIONS[0], 1, with_llm=False)) + begun


def test_nothing_stands_behind_an_end_that_was_chosen(served: Served, session: Session) -> None:
    (answer,) = session.generate(QUESTIONS[:1], "greedy")
    assert answer.tokens[-1] in session.stop_ids
    for begun in (answer.tokens, (*answer.tokens[:5], answer.tokens[-1])):
        choice = served.client.chat.completions.create(
            model="demo:s2t-local", messages=messages(QUESTIONS[0]), extra_body=own(answer_tokens=begun, trace=True)
        ).choices[0]
        assert (choice.message.content or "", choice.finish_reason) == ("", "stop")


def test_a_character_that_had_begun_is_told_alone(served: Served, session: Session) -> None:
    ids = session.slm.tokenizer("First Max has 3 \u6c34", add_special_tokens=False).input_ids
    choice = served.client.chat.completions.create(
        model="demo:greedy", messages=messages(QUESTIONS[0]), max_tokens=1, logit_bias={str(ids[-1]): 100},
        extra_body=own(answer_tokens=ids[:-1]),
    ).choices[0]  # fmt: skip
    assert choice.message.content == "\u6c34"


def test_a_conversation_is_put_through_the_template(served: Served, session: Session) -> None:
    turns: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": QUESTIONS[1][:20]}, {"type": "text", "text": QUESTIONS[1][20:]}],
        },
        {"role": "assistant", "content": "No.", "refusal": None, "annotations": []},
        {"role": "user", "content": QUESTIONS[0]},
    ]
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTIONS[1]},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": QUESTIONS[0]},
    ]
    text = session.slm.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    ids = session.slm.tokenizer(text, add_special_tokens=False).input_ids
    (expected,) = session.generate([ids], "greedy")
    answer = served.client.chat.completions.create(model="demo:greedy", messages=turns)
    assert answer.choices[0].message.content == expected.text
    assert served.post("/tokenize", {"messages": turns}).json()["tokens"] == ids


def test_a_pair_of_two_vocabularies() -> None:
    pair = PairConfig(pair="demo-x")
    session = Session.load(pair, SMALL)
    with serving(Session.load(pair, SMALL)) as served:
        for method in ("llm", "s2t", "takeover", "mentor-free"):
            (expected,) = session.generate(QUESTIONS[:1], method)
            sent: dict[str, Any] = {"model": f"demo-x:{method}", "messages": messages(QUESTIONS[0])}
            answer = served.client.chat.completions.create(**sent, logprobs=True, top_logprobs=2)
            assert answer.choices[0].message.content == expected.text
            told = answer.choices[0].logprobs
            assert told is not None and told.content is not None and len(told.content) == len(expected.tokens)
            if method != "mentor-free":  # its draws follow from the prompt, and these tokens are of the prompt
                begun = expected.tokens[:6]
                answer = served.client.chat.completions.create(**sent, extra_body=own(answer_tokens=begun))
                assert session.text(begun) + (answer.choices[0].message.content or "") == expected.text
            with pytest.raises(openai.BadRequestError, match="other tokens"):
                served.client.chat.completions.create(**sent, logit_bias={"5": 1})
        with pytest.raises(S2TError, match="in the tokens of its SLM: serve the LLM alone there"):
            _ = Session.load(replace(pair, llm=f"{served.url}/v1"), SMALL).llm
        with pytest.raises(openai.BadRequestError, match="scores no prompts"):
            served.client.completions.create(model="demo-x:llm", prompt="Ida has", echo=True, logprobs=1)


def test_models(served: Served) -> None:
    names = [model.id for model in served.client.models.list()]
    assert names[0] == "demo" and {f"demo:{method}" for method in METHODS if method != "maj@4"} < set(names)
    told = served.get("/v1/models")["data"]
    assert [model["s2t"]["default"] for model in told if model["id"] == "demo:s2t-local"] == [True]
    (s2t,) = [model["s2t"] for model in told if model["id"] == "demo:s2t"]
    assert s2t["asks_llm"] and s2t["trigger"] == "kl" and {"kl", "entropy"} < set(s2t["triggers"])
    assert served.client.models.retrieve("demo:maj@4").id == "demo:maj@4"
    with pytest.raises(openai.NotFoundError, match="did you mean 'demo:s2t-local'"):
        served.client.models.retrieve("demo:s2t-locl")


def test_tokens_there_and_back(served: Served, session: Session) -> None:
    text = "Ida has 23 keys."
    found = served.post("/tokenize", {"prompt": text, "return_token_strs": True}).json()
    assert found["tokens"] == session.slm.tokenizer(text).input_ids and "".join(found["token_strs"]) == text
    assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), 1024)
    assert served.post("/detokenize", {"tokens": found["tokens"]}).json() == {"prompt": text}


def test_small_things(served: Served, session: Session) -> None:
    assert served.get("/health") == {"status": "ok"} and served.get("/version")["version"]
    examples = served.get("/v1/s2t/examples")
    assert len(examples["examples"]) == 12 and "nothing else" in examples["note"]
    tested = {problem.question for problem in load_split("test", limit_per_domain=500)}
    assert not tested & {example["question"] for example in examples["examples"]}
    served.post("/v1/completions", {"model": "demo:greedy", "prompt": "The", "max_tokens": 1})
    state = served.get("/v1/s2t/state")
    assert state["slm_forwards"] > 0 and state["queue"] == 0


def test_ignored_fields_are_ignored(served: Served) -> None:
    fields = {
        "user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True,
        "frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}, "tool_choice": "none",
        "tools": None, "max_completion_tokens": 3, "max_tokens": 500, "top_k": -1, "min_p": 0.1, "modalities": ["text"],
    }  # fmt: skip
    answer = served.post("/v1/chat/completions", {"messages": messages("Hello"), **fields})
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] <= 3


def test_streams_look_as_the_protocol_says(served: Served) -> None:
    body = {"messages": messages(QUESTIONS[0]), "stream": True, "n": 2, "stream_options": {"include_usage": True}}
    answer = served.post("/v1/chat/completions", body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""] and all(event.startswith("data: ") for event in events[:-1])
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert [chunk["usage"] is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1]["choices"] == [] and {c["index"] for chunk in chunks[:-1] for c in chunk["choices"]} == {0, 1}
    ends = [c["finish_reason"] for chunk in chunks[:-1] for c in chunk["choices"] if c["finish_reason"]]
    assert ends == ["stop", "stop"]
    assert httpx.get(served.url + "/v1/chat/completions").status_code == 405


def test_nothing_but_the_answer_when_no_token_is_wanted(served: Served) -> None:
    answer = served.client.completions.create(model="demo", prompt="Ida has", max_tokens=0, echo=True)
    assert answer.choices[0].text == "Ida has" and answer.choices[0].finish_reason == "length"
    (chunk, *rest) = served.client.completions.create(model="demo", prompt="Ida", max_tokens=0, echo=True, stream=True)
    assert chunk.choices[0].text == "Ida" and rest[-1].choices[0].finish_reason == "length"


def test_settings_of_the_server_are_the_defaults(session: Session) -> None:
    settings = MethodSettings(DecodeConfig(max_new_tokens=7), SelectConfig(trigger_budget=0.2))
    (expected,) = session.generate(QUESTIONS[:1], "s2t-local", settings.decode, settings.select)
    with serving(Session.load(runtime=SMALL), settings=settings) as served:
        answer = served.client.chat.completions.create(model="demo", messages=messages(QUESTIONS[0]))
    assert answer.choices[0].message.content == expected.text and answer.choices[0].finish_reason == "length"


class Clock:
    """A loop whose time is set by hand."""

    def __init__(self) -> None:
        self.now, self.due = 100.0, dict[float, Any]()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, then: Any, *arguments: Any) -> Any:
        self.due[when] = then
        return SimpleNamespace(cancel=lambda: self.due.pop(when, None))


def test_what_begins_or_ends_at_one_moment_is_sent_at_once(served: Served) -> None:
    body = {
        "messages": messages(QUESTIONS[0]),
        "max_tokens": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent: list[Any] = []
    request = {"type": "http.request", "body": json.dumps(body).encode()}
    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "http_version": "1.1",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"99")], "server": None, "client": None,
    }  # fmt: skip

    async def ask() -> None:
        waiting = [request]

        async def receive() -> Any:
            return waiting.pop() if waiting else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await served.server.config.app(scope, receive, send)  # type: ignore[operator]

    asyncio.run_coroutine_threadsafe(ask(), served.engine.distant.loop).result(60)  # type: ignore[arg-type]
    start, whole = sent
    events = whole["body"].decode().split("\n\n")
    assert start["type"] == "http.response.start" and not whole["more_body"]
    assert len(events) == 6 and events[4:] == ["data: [DONE]", ""] and '"usage":{' in events[3]


def wrote(*tokens: int) -> Written:
    return Written(tokens, tuple(StepRecord(token, 0.0) for token in tokens))


def test_what_begins_and_ends_is_told_at_once_and_other_tokens_soon() -> None:
    clock = Clock()
    engine: Any = SimpleNamespace(forget=lambda client: None)
    client = Client(engine, clock, 0, open=2)  # type: ignore[arg-type]

    def told() -> bool:
        woken = client.ready.is_set()
        client.ready.clear()
        return woken

    client.receive(0, wrote(0))
    assert told()  # the first token waits for nothing
    for token in (1, 2):
        clock.now += CHUNK_SECONDS / 4
        client.receive(0, wrote(token))
    assert not told() and list(clock.due) == [100.0 + CHUNK_SECONDS]
    clock.now = 100.0 + CHUNK_SECONDS
    clock.due.popitem()[1]()
    assert told() and not clock.due
    client.receive(0, wrote(3))
    assert not told() and clock.due
    client.receive(1, wrote(4))  # another answer begins; nothing is overtaken
    assert told() and not clock.due
    client.receive(0, wrote(5))
    assert not told() and clock.due
    client.receive(0, Ended("stop"))
    assert told() and not clock.due and client.open == 1
    clock.now += 2 * CHUNK_SECONDS
    client.receive(1, wrote(6, 7))  # long after the last one
    assert told()
    client.receive(1, Ended("stop"))
    assert told() and not clock.due and client.open == 0
    client.ready.set()

    async def read() -> list[Any]:
        return [news async for news in client.events(1000.0)]

    merged = [(0, wrote(0, 1, 2, 3)), (1, wrote(4)), (0, wrote(5)), (0, Ended("stop")), (1, wrote(6, 7))]
    assert asyncio.run(read()) == [[*merged, (1, Ended("stop"))]] and not clock.due


def test_a_reader_who_leaves_or_takes_too_long_is_told_so() -> None:
    async def read(leave: bool) -> list[Any]:
        engine: Any = SimpleNamespace(forget=lambda client: forgotten.append(client.number))
        loop = asyncio.get_running_loop()
        client = Client(engine, loop, 3, open=1)
        if leave:
            loop.call_soon(client.leave)
        return [news async for news in client.events(loop.time() + (60 if leave else 0.01))]

    forgotten: list[int] = []
    for leave, error in ((True, ClientGone), (False, TimeoutError)):
        with pytest.raises(error):
            asyncio.run(read(leave))
    assert forgotten == [3, 3]


def test_a_reader_who_is_behind_gets_several_tokens_at_once() -> None:
    end = Ended("stop")
    news: list[Any] = [(0, wrote(0)), (0, wrote(1)), (1, wrote(2)), (1, end)]
    assert joined([*news, (0, wrote(3, 4))]) == [(0, wrote(0, 1)), (1, wrote(2)), (1, end), (0, wrote(3, 4))]
    assert joined(news[-1:]) == news[-1:]
