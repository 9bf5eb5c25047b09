"""From a request to what is wanted of the engine.

Non-goals: running it (`engine.py`), and the forms of answers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from select_to_think.artefacts import Question
from select_to_think.config import LARGEST_SEED, MethodSettings, ServeConfig
from select_to_think.methods import Method, find_method
from select_to_think.models.prompting import Conversation, require_text, tokens_of
from select_to_think.presets import preset_values
from select_to_think.serving.catalogue import Catalogue
from select_to_think.serving.errors import RequestError
from select_to_think.serving.readers import DistantEngine
from select_to_think.serving.schemas import ChatRequest, CompletionRequest
from select_to_think.serving.wanted import Prepared, Wanted
from select_to_think.structures import FinishReason, PromptTooLong, S2TError

TRACED_ALTERNATIVES = 8  # of a step, where a trace does not say how many
Request = ChatRequest | CompletionRequest
COLDEST = 0.01  # temperature; below it sampling is taken as greedy decoding
GREEDY = ("greedy", "distill", "llm")  # methods of one model, each step of which is one look at its distribution
SAMPLING = ("temperature", "top_p", "top_k", "min_p")
SHORT = 4096  # bytes; longer requests are read by tokenizers beside the event loop


@dataclass(frozen=True)
class Order:
    """One answer that is to be written, and the log-probabilities of its prompt if these are asked for."""

    method: Method
    prepared: Prepared
    settings: MethodSettings
    prompt: list[int]
    begun: tuple[int, ...]  # of the prompt, the tokens that belong to the answer
    answering: Wanted | None  # None where no token is to be written
    scoring: Wanted | None = None
    echo: str = ""  # text of the prompt, where it is to be told again
    unwritten: FinishReason = "length"  # why no token is to be written, where that is so


class Planner:
    """Makes orders of requests."""

    def __init__(
        self, engine: DistantEngine, catalogue: Catalogue, settings: MethodSettings, limits: ServeConfig
    ) -> None:
        """`settings` are those of requests that do not say."""
        self.engine, self.session = engine, engine.session
        self.catalogue, self.settings, self.limits = catalogue, settings, limits

    async def orders(self, request: Request, size: int) -> list[Order]:
        """The answers that a request of `size` bytes wants: `n` to each prompt, one after the other.

        Raises:
            RequestError: what cannot be served.
            S2TError: the same.
        """
        method = self.found(request)
        settings = self.chosen(request, method)
        prepared = await self.engine.prepared(method.name, settings.select, settings.mentor)

        def planned() -> list[Order]:
            prompts = request.prompts
            return [order for each in prompts for order in self.ordered(request, method, prepared, settings, each)]

        return planned() if size <= SHORT else await asyncio.to_thread(planned)

    def found(self, request: Request) -> Method:
        """The method that a request means."""
        if (request.n or 1) * len(request.prompts) > self.limits.max_n:
            raise RequestError(f"prompts times n must be at most {self.limits.max_n} in one request", param="n")
        method = self.catalogue.find(request.model, request.s2t.method)
        if method.samples > self.limits.max_n:
            raise RequestError(f"{method.name}: at most maj@{self.limits.max_n} is served", param="model")
        if method.draws and not method.mentor and request.temperature is not None and request.temperature < COLDEST:
            return find_method("greedy")
        return method

    def chosen(self, request: Request, method: Method) -> MethodSettings:
        """The settings of a method under a request: the server's, where it does not say."""
        drawn: dict[str, Any] = {name: value for name in SAMPLING if (value := getattr(request, name)) is not None}
        if "temperature" in drawn:
            drawn["temperature"] = max(COLDEST, drawn["temperature"])
        if "top_k" in drawn:
            drawn["top_k"] = max(0, drawn["top_k"])
        seed = request.seed
        if seed is None and method.draws and not method.mentor:
            seed = secrets.randbelow(LARGEST_SEED)
        if seed is not None:
            drawn["seed"] = seed % (LARGEST_SEED + 1)
        for text in (*request.stops, request.s2t.verifier_template or "", request.s2t.verifier_opening or ""):
            require_text(text)
        own = {name: value for name, value in request.s2t if value is not None}
        own = {**(preset_values(own["preset"]) if "preset" in own else {}), **own}
        traced = own.get("alternatives", TRACED_ALTERNATIVES) if request.s2t.trace else 0
        return MethodSettings(
            changed(self.settings.decode, drawn),
            changed(self.settings.select, own),
            changed(self.settings.mentor, own),
            request.stops,
            max(request.alternatives or 0, traced),
            self.asked_ids(request, method),
            self.bias(request, method),
        )

    def asked_ids(self, request: Request, method: Method) -> tuple[int, ...]:
        """The tokens whose log-probabilities a request wants."""
        ids = tuple(request.logprob_token_ids or ())
        if not ids:
            return ()
        if method.name not in GREEDY or (method.asks_llm and not self.session.shares_vocabulary):
            raise RequestError(f"{method.name} tells no log-probabilities of given tokens", param="logprob_token_ids")
        if wrong := [token for token in ids if token >= self.session.slm.vocab_size]:
            size = self.session.slm.vocab_size
            raise RequestError(f"{wrong[0]} is no token id below {size}", param="logprob_token_ids")
        return ids

    def bias(self, request: Request, method: Method) -> tuple[tuple[int, float], ...]:
        """(token id, nats) of a request."""
        if not (pairs := request.logit_bias or {}):
            return ()
        size = self.session.slm.vocab_size
        try:
            if method.asks_llm:
                self.session.assert_llm_takes_bias(method.name)
        except S2TError as error:
            raise RequestError(str(error), param="logit_bias") from error
        if wrong := [token for token in pairs if not token.isdecimal() or len(token) > 10 or int(token) >= size]:
            raise RequestError(f"logit_bias: {wrong[0]!r} is no token id below {size}", param="logit_bias")
        return tuple((int(token), nats) for token, nats in pairs.items() if nats)

    def ordered(
        self, request: Request, method: Method, prepared: Prepared, settings: MethodSettings, asked: Question
    ) -> list[Order]:
        """The answers to one prompt."""
        echo, question, begun = "", asked, tuple(request.s2t.answer_tokens)
        if not isinstance(asked, Conversation):
            question = [*self.prompt_ids(asked), *begun]
            if request.echo:
                echo = asked if isinstance(asked, str) else self.session.text(asked)
        prompt, longest = self.room(request, method, settings, question)
        scoring, orders = None, []
        unwritten: FinishReason = "length"
        if request.echo and request.logprobs is not None and len(prompt) > 1:
            scoring = Wanted(method.name, settings, prompt)
        if begun and begun[-1] in self.session.stop_ids:  # nothing stands behind it
            longest, unwritten = 0, "stop"
        detailed, streamed = request.s2t.trace or request.alternatives is not None, bool(request.stream)
        for number in range(request.n or 1):
            seed = (settings.decode.seed + number) % (LARGEST_SEED + 1)
            mine = replace(settings, decode=replace(settings.decode, max_new_tokens=max(1, longest), seed=seed))
            answering = Wanted(method.name, mine, prompt, question, detailed, streamed) if longest else None
            orders.append(Order(method, prepared, mine, prompt, begun, answering, scoring, echo, unwritten))
        return orders

    def prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The token ids of a prompt that is continued as it stands."""
        if not isinstance(prompt, str):
            return list(prompt)
        require_text(prompt)
        return tokens_of(self.session.slm, prompt)

    def room(
        self, request: Request, method: Method, settings: MethodSettings, question: Question
    ) -> tuple[list[int], int]:
        """The prompt of a question, and the most tokens that may follow it."""
        session, wanted = self.session, request.longest
        room = session.room(with_llm=method.asks_llm)
        try:
            prompt = session.prompt(question, 1 if wanted is None else wanted, with_llm=method.asks_llm)
        except PromptTooLong as error:
            raise RequestError(
                f"the context is {room} tokens{session.shortened}, and the prompt has {error.tokens}"
                + (f" with {wanted} more wanted" if wanted else "")
                + ": shorten it, or lower max_tokens",
                param="messages" if isinstance(request, ChatRequest) else "prompt",
                code="context_length_exceeded",
            ) from None
        return prompt, min(settings.decode.max_new_tokens, room - len(prompt)) if wanted is None else wanted


def changed(config: Any, values: Mapping[str, Any]) -> Any:
    """A configuration with those values that are its own."""
    own = {spec.name: values[spec.name] for spec in fields(config) if spec.name in values}
    return replace(config, **own) if own else config
