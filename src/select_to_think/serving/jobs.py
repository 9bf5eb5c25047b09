"""From a request to what is wanted of the engine.

Non-goals: running it (`engine.py`), and the forms of answers.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from select_to_think.artefacts import Question
from select_to_think.config import LARGEST_SEED, MethodSettings, ServeConfig
from select_to_think.methods import Method, find_method
from select_to_think.models.prompting import Conversation, require_text, tokens_of
from select_to_think.presets import preset_values
from select_to_think.serving.catalogue import Catalogue
from select_to_think.serving.errors import RequestError
from select_to_think.serving.schemas import ChatRequest, CompletionRequest
from select_to_think.serving.wanted import Answering, Prepared, Scoring, unseeded
from select_to_think.session import Session
from select_to_think.structures import PromptTooLong

TRACED_ALTERNATIVES = 8  # of a step, where a trace does not say how many
Request = ChatRequest | CompletionRequest
COLDEST = 0.01  # temperature; below it sampling is taken as greedy decoding
GREEDY = ("greedy", "distill", "llm")  # methods of one model, each step of which is one look at its distribution
SAMPLING = ("temperature", "top_p", "top_k", "min_p")


@dataclass(frozen=True)
class Order:
    """One answer that is to be written, and the log-probabilities of its prompt if these are asked for."""

    method: Method
    prepared: Prepared
    settings: MethodSettings
    prompt: list[int]
    begun: tuple[int, ...]  # of the prompt, the tokens that belong to the answer
    answering: Answering | None  # None where no token is to be written
    scoring: Scoring | None = None
    echo: str = ""  # text of the prompt, where it is to be told again


class Planner:
    """Makes orders of requests."""

    def __init__(
        self,
        session: Session,
        catalogue: Catalogue,
        settings: MethodSettings,
        limits: ServeConfig,
        prepared: Callable[[str, MethodSettings], Prepared],
    ) -> None:
        """`settings` are those of requests that do not say; `prepared` raises S2TError for some that they bring."""
        self.session, self.catalogue, self.settings, self.limits = session, catalogue, settings, limits
        self.prepared = prepared

    def chat(self, request: ChatRequest) -> list[Order]:
        """The orders of a conversation."""
        turns = tuple(message.turn for message in request.messages)
        return self.orders(request, [Conversation(turns, tuple(request.s2t.answer_tokens))])

    def completion(self, request: CompletionRequest) -> list[Order]:
        """The orders of prompts."""
        given: Any = request.prompt
        prompts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        questions = [[*self.prompt_ids(prompt), *request.s2t.answer_tokens] for prompt in prompts]
        orders = self.orders(request, questions)
        if not request.echo:
            return orders
        texts = [prompt if isinstance(prompt, str) else self.session.text(prompt) for prompt in prompts]
        return [replace(order, echo=texts[place // (request.n or 1)]) for place, order in enumerate(orders)]

    def prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The token ids of a prompt that is continued as it stands."""
        if not isinstance(prompt, str):
            return list(prompt)
        require_text(prompt)
        return tokens_of(self.session.slm, prompt)

    def orders(self, request: Request, questions: Sequence[Question]) -> list[Order]:
        """`n` orders for each question, those of one question one after the other."""
        n = request.n or 1
        if n * len(questions) > self.limits.max_n:
            raise RequestError(f"prompts times n must be at most {self.limits.max_n} in one request", param="n")
        method = self.catalogue.find(request.model, request.s2t.method)
        if method.samples > self.limits.max_n:
            raise RequestError(f"{method.name}: at most maj@{self.limits.max_n} is served", param="model")
        if method.draws and not method.mentor and request.temperature is not None and request.temperature < COLDEST:
            method = find_method("greedy")
        settings = self.chosen(request, method)
        return [order for question in questions for order in self.ordered(request, method, settings, question, n)]

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

        def changed(config: Any) -> Any:
            return replace(config, **{spec.name: own[spec.name] for spec in fields(config) if spec.name in own})

        traced = own.get("alternatives", TRACED_ALTERNATIVES) if request.s2t.trace else 0
        return MethodSettings(
            replace(self.settings.decode, **drawn),
            changed(self.settings.select),
            changed(self.settings.mentor),
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
        size, pairs = self.session.slm.vocab_size, request.logit_bias or {}
        if pairs and method.asks_llm and not self.session.shares_vocabulary:
            raise RequestError(f"{method.name} asks an LLM with other tokens: leave logit_bias out", param="logit_bias")
        if wrong := [token for token in pairs if not token.isdecimal() or len(token) > 10 or int(token) >= size]:
            raise RequestError(f"logit_bias: {wrong[0]!r} is no token id below {size}", param="logit_bias")
        return tuple((int(token), nats) for token, nats in pairs.items() if nats)

    def ordered(
        self, request: Request, method: Method, settings: MethodSettings, question: Question, n: int
    ) -> list[Order]:
        """The answers to one question."""
        prompt, longest = self.room(request, method, settings, question)
        settings = replace(settings, decode=replace(settings.decode, max_new_tokens=max(1, longest)))
        prepared = self.prepared(method.name, unseeded(settings))
        echoed = isinstance(request, CompletionRequest) and request.echo and request.logprobs is not None
        scoring = None
        if echoed and len(prompt) > 1:
            scoring = Scoring(method.name, settings, prompt, request.alternatives or 1)
        begun, orders = tuple(request.s2t.answer_tokens), []
        for number in range(n):
            mine = seeded(settings, number)
            answering = Answering(method.name, mine, question, prompt) if longest else None
            orders.append(Order(method, prepared, mine, prompt, begun, answering, scoring))
        return orders

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


def seeded(settings: MethodSettings, number: int) -> MethodSettings:
    """The settings of the `number`-th answer to one prompt."""
    seed = (settings.decode.seed + number) % (LARGEST_SEED + 1)
    return replace(settings, decode=replace(settings.decode, seed=seed))
