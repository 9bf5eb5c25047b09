"""What each kind of server is asked, and how its answers are read: one small class a kind.

Every question is about one prompt: which tokens follow it, and how probable. A request carries token ids, so that no
tokenizer stands between, and is a prefix of the next one of its sequence, so that the server's prefix cache holds it.

An answer is checked before it is believed: it must be about this prompt (its length and, where the server gives them
back, its id), by the model that was asked, and hold finite log-probabilities of all that was asked.

Non-goals: transport (`transport.py`), finding out what a server is (`detection.py`).
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal
from uuid import uuid4

from select_to_think.contexts.remote.questions import Query, Seen, bounded, nats, number, pairs, ranked, token_id
from select_to_think.contexts.remote.transport import Transport, Unreadable
from select_to_think.structures import ModelRefused, ModelUnavailable, S2TError

Capability = Literal["exact_ids", "renormalised", "top_n"]
MARK = "s2tq-"  # begins the ids of our requests
NO_PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}  # a model may bring some


class Server(ABC):
    """A model behind an address."""

    kind: ClassVar[str]
    longest_top: ClassVar[int] = 20  # most probable tokens that can be asked

    def __init__(self, transport: Transport, model: str) -> None:
        """Ask `model` there."""
        self.transport, self.model = transport, model
        self.answers_as: str | None = None  # how its first answer named it

    @property
    @abstractmethod
    def capability(self) -> Capability:
        """What it can tell of asked ids."""

    @abstractmethod
    async def look(self, query: Query) -> Seen:
        """Answer a query.

        Raises:
            ModelUnavailable: it did not answer, or (`Undecided`) tells nothing of the asked ids.
            S2TError: it refuses.
        """

    def check(self, answer: Mapping[str, Any], query: Query, prompt_tokens: Any, cached: Any, mark: str) -> None:
        """Raise unless an answer is this model's, and about this prompt."""
        name = answer.get("model")
        self.answers_as = self.answers_as or name
        if name is None and self.answers_as is not None:
            raise Unreadable("an answer that names no model")
        if name != self.answers_as:
            raise ModelRefused(changed(self.transport.url, self.model, f"it answers as {name!r}"))
        given = str(answer.get("id", ""))
        if MARK in given and mark not in given:
            raise Unreadable("an answer to another request")
        if prompt_tokens is not None and prompt_tokens != len(query.tokens):
            raise Unreadable(f"an answer to a prompt of {prompt_tokens} tokens, not {len(query.tokens)}")
        self.transport.traffic.prompt_tokens += len(query.tokens)
        self.transport.traffic.cached_tokens += cached if isinstance(cached, int) else 0


class Completions(Server):
    """What the servers with `/v1/completions` share."""

    returns_ids: ClassVar[bool] = False  # whether a request may bear an id, which comes back

    async def complete(
        self, query: Query, asked: Mapping[str, Any], prompt: Any = None, turn: str | None = None
    ) -> dict[int, float]:
        """The log-probabilities that a completion of one token brings; the chosen token's stands first."""
        mark = f"{MARK}{uuid4().hex}"
        body = {
            "model": self.model,
            "prompt": list(query.tokens) if prompt is None else prompt,
            "max_tokens": 1,
            "temperature": 0,
            **asked,
        }

        def read(answer: Any) -> dict[int, float]:
            usage = answer.get("usage") or {}
            counted = usage.get("prompt_tokens") if prompt is None else None
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            self.check(answer, query, counted, cached, mark)
            return self.table(answer["choices"][0]["logprobs"])

        if self.returns_ids:
            body["request_id"] = mark
        return await self.transport.call("/v1/completions", body, read, turn)

    def table(self, logprobs: Mapping[str, Any]) -> dict[int, float]:
        """Log-probability by id, the chosen token first."""
        found = {token_id(logprobs["tokens"][0]): nats(logprobs["token_logprobs"][0])}
        for key, value in ((logprobs.get("top_logprobs") or [None])[0] or {}).items():
            found.setdefault(token_id(key), nats(value))
        return found


class VLLM(Completions):
    """vLLM from 0.16 on: exact log-probabilities of up to 128 asked ids a request.

    A step of vLLM (0.32) in which any request asks for ids tells the others their chosen token alone. So the two kinds
    of requests take turns, and the most probable tokens that were not told, as others ask there, are asked again.
    """

    kind, capability = "vllm", "exact_ids"
    longest_ids: ClassVar[int] = 128
    crowded: ClassVar[bool] = True
    attempts: ClassVar[int] = 100  # to ask for the most probable tokens
    always: ClassVar[Mapping[str, Any]] = {"return_tokens_as_token_ids": True, **NO_PENALTIES}
    returns_ids = True

    async def look(self, query: Query) -> Seen:
        """One request; several where many ids, or more than the best token, are asked beside ids."""
        size = self.longest_ids
        parts = [query.ids[i : i + size] for i in range(0, len(query.ids), size)]
        alone = [self.most_probable(query)] if query.top > 1 or not parts else []
        tables = await asyncio.gather(*alone, *(self.asked(query, part) for part in parts))
        found = {i: value for table in tables[::-1] for i, value in table.items()}
        if any(i not in found for i in query.ids):
            raise ModelUnavailable(f"{self.transport.url} did not tell all asked ids")
        return Seen(ranked(tables[0], query), {i: found[i] for i in query.ids})

    async def asked(self, query: Query, ids: Sequence[int]) -> dict[int, float]:
        """The log-probabilities of some ids, behind the chosen token's."""
        turn = "ids" if self.crowded else None
        return await self.complete(query, {**self.always, "logprobs": 0, "logprob_token_ids": list(ids)}, turn=turn)

    async def most_probable(self, query: Query) -> dict[int, float]:
        """The log-probabilities of the `query.top` most probable ids, as far as they are told."""
        count = min(query.top, self.longest_top)
        if count == 1 or not self.crowded:
            return await self.complete(query, {**self.always, "logprobs": count})
        count = max(3, count)  # the chosen token, and what fills its place, would be two
        for _ in range(self.attempts):
            table = await self.complete(query, {**self.always, "logprobs": count}, turn="top")
            if len(table) >= count:
                return table
        raise ModelUnavailable(f"{self.transport.url} tells one token alone: others ask it for ids all the time")


class Own(VLLM):
    """A server of this library (`s2t serve`), which refuses fields that it does not know."""

    kind = "s2t"
    always = {"return_tokens_as_token_ids": True}  # noqa: RUF012
    returns_ids, crowded = False, False


class SGLang(Server):
    """SGLang's own interface: exact log-probabilities of asked ids."""

    kind, capability = "sglang", "exact_ids"

    async def look(self, query: Query) -> Seen:
        """One request."""
        mark = f"{MARK}{uuid4().hex}"
        sampling = {"max_new_tokens": 1, "temperature": 0, **NO_PENALTIES}
        body = {
            "input_ids": list(query.tokens),
            "rid": mark,
            "sampling_params": sampling,
            "return_logprob": True,
            "top_logprobs_num": query.top if query.top > 1 else 0,
            **({"token_ids_logprob": list(query.ids)} if query.ids else {}),
        }

        def read(answer: Any) -> Seen:
            about = answer["meta_info"]
            self.check({"id": about.get("id", "")}, query, about.get("prompt_tokens"), about.get("cached_tokens"), mark)
            table = pairs(about["output_token_logprobs"][:1])
            if query.top > 1:
                table |= {i: v for i, v in pairs(about["output_top_logprobs"][0]).items() if i not in table}
            asked = pairs(about["output_token_ids_logprobs"][0]) if query.ids else {}
            if any(i not in asked for i in query.ids):
                raise Unreadable("an answer without all asked ids")
            return Seen(ranked(table, query), {i: asked[i] for i in query.ids})

        return await self.transport.call("/generate", body, read)


class LlamaServer(Server):
    """llama.cpp's llama-server: the N most probable tokens for any N, and probabilities among asked ids.

    Of a small vocabulary all log-probabilities are asked where exact ones are needed. Of a large one that would be
    megabytes a step: there only the best of some candidates can be told.
    """

    kind = "llama-server"
    exact_vocabulary: ClassVar[int] = 32_768
    first_top: ClassVar[int] = 40  # enough to hold a candidate nearly always

    def __init__(self, transport: Transport, model: str, vocabulary: int, end: int) -> None:
        """`vocabulary` is its size, and `end` a token that ends a text."""
        super().__init__(transport, model)
        self.vocabulary, self.end = vocabulary, end

    @property
    def capability(self) -> Capability:
        return "exact_ids" if self.vocabulary <= self.exact_vocabulary else "renormalised"

    async def look(self, query: Query) -> Seen:
        """One request; one more where no candidate is among the most probable tokens."""
        exact = bool(query.ids) and not query.best_only
        if exact and self.capability != "exact_ids":
            raise S2TError(f"this needs {inexact(self)}")
        size = self.vocabulary if exact else max(query.top, self.first_top if query.ids else 1)
        # A token that ends inside a character would come without probabilities, so one that cannot is always chosen.
        # The probabilities are those before sampling.
        table = await self.complete(query, {"n_probs": size, "logit_bias": [[self.end, 10_000.0]]}, "logprob")
        top = ranked(dict(sorted(table.items(), key=lambda item: -item[1])), query)
        if not query.ids or any(i in table for i in query.ids):
            return Seen(top, bounded(table, query))
        bias = [[i, 100.0] for i in query.ids]
        settings = {"n_probs": len(query.ids), "logit_bias": bias, "post_sampling_probs": True}
        shares = await self.complete(query, {**settings, "temperature": 1.0, "samplers": ["temperature"]}, "prob")
        return Seen(top, bounded({i: v for i, v in shares.items() if i in query.ids}, query))

    async def complete(self, query: Query, settings: Mapping[str, Any], value: str) -> dict[int, float]:
        """Log-probabilities by id of one request."""
        wanted = ["completion_probabilities", "tokens", "tokens_evaluated", "model", "timings"]
        body = {"prompt": list(query.tokens), "n_predict": 1, "temperature": 0.0, "cache_prompt": True}

        def read(answer: Any) -> dict[int, float]:
            cached = (answer.get("timings") or {}).get("cache_n")
            self.check(answer, query, answer["tokens_evaluated"], cached, "")
            if value == "prob" and "completion_probabilities" not in answer and answer.get("tokens"):
                return {}
            told = answer["completion_probabilities"][0][f"top_{value}s"]
            found = {int(each["id"]): each[value] for each in told}
            if not found:
                raise Unreadable("an answer without probabilities")
            if value == "prob":
                shares = {i: number(share, "probability", 0.0, math.inf) for i, share in found.items()}
                return {i: math.log(share) for i, share in shares.items() if 0 < share <= 1 + 1e-3}
            return {i: nats(v) for i, v in found.items()}

        return await self.transport.call("/completion", {**body, "response_fields": wanted, **settings}, read)


class OpenAI(Completions):
    """Any other server with `/v1/completions`: the N most probable tokens, told as text.

    Where no candidate is among them, the server is asked for the best of the candidates alone (`logit_bias`).
    """

    kind, capability = "openai", "top_n"

    def __init__(
        self, transport: Transport, model: str, ids: Mapping[str, int], decode: Callable[[Sequence[int]], str] | None
    ) -> None:
        """`ids` are the tokens that a text names without doubt; prompts go as text where there is a `decode`."""
        super().__init__(transport, model)
        self.ids, self.decode = ids, decode

    async def look(self, query: Query) -> Seen:
        """One request; one more where no candidate is among the most probable tokens."""
        prompt = None if self.decode is None else self.decode(query.tokens)
        top = self.longest_top if query.ids else min(query.top, self.longest_top)
        table = await self.complete(query, {"logprobs": top}, prompt)
        best = ranked(table, query)
        if not query.ids:
            return Seen(best, {})
        if any(i in table for i in query.ids):
            if not query.best_only and any(i not in table for i in query.ids):
                raise S2TError(f"this needs {inexact(self)}")
            return Seen(best, bounded(table, query))
        if not query.best_only:
            raise S2TError(f"this needs {inexact(self)}")
        bias = {"logprobs": 1, "logit_bias": {str(i): 100 for i in query.ids}}
        chosen = next(iter(await self.complete(query, bias, prompt)))
        floor = min(table.values())
        return Seen(best, bounded({chosen: floor} if chosen in query.ids else {}, query))

    def table(self, logprobs: Mapping[str, Any]) -> dict[int, float]:
        """By id; tokens whose text names no single id are left out, except the chosen one."""
        chosen = str(logprobs["tokens"][0])
        found = {self.ids.get(chosen, -1): nats(logprobs["token_logprobs"][0])}
        for text, value in ((logprobs.get("top_logprobs") or [None])[0] or {}).items():
            found.setdefault(self.ids.get(text, -1), nats(value))
        return found


def changed(url: str, model: str, how: str) -> str:
    """That another model is behind an address now."""
    return f"{url} no longer serves {model!r} as it did at the start ({how}): results would mix two models, start anew"


def inexact(server: Server) -> str:
    """Why exact log-probabilities cannot be had, and what would do."""
    return (
        f"the exact log-probability of every candidate, and the server at {server.transport.url} ({server.kind}) tells "
        f"only {TELLS[server.capability]}: serve the LLM with vLLM, SGLang or `s2t serve`"
    )


TELLS = {"renormalised": "probabilities among candidates", "top_n": "the most probable tokens"}
