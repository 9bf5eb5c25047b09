"""The routes of the server, and the whole application for whoever listens (`server.py`, and other people's servers).

Non-goals: who may use it (`access.py`), and how requests are understood (`schemas.py`, `jobs.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp

from select_to_think import __version__
from select_to_think.config import MethodSettings, ServeConfig
from select_to_think.models.prompting import Conversation, prompt_ids, require_text, tokens_of
from select_to_think.pairs.problems import load_split
from select_to_think.serving import errors
from select_to_think.serving.access import ApiKeys, guarded
from select_to_think.serving.catalogue import Catalogue
from select_to_think.serving.errors import RequestError
from select_to_think.serving.forms import ChatForm, CompletionForm, TokenTexts
from select_to_think.serving.jobs import SHORT, Planner
from select_to_think.serving.metrics import Visits
from select_to_think.serving.readers import DistantEngine
from select_to_think.serving.replies import EventStream, Reply
from select_to_think.serving.schemas import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from select_to_think.serving.settings import AccessConfig
from select_to_think.serving.static import page_routes

EXAMPLES = 4  # of each domain
EXAMPLES_NOTE = (
    "The bundled pair is two very small models trained on word problems of three kinds, and can answer nothing else."
)


def create_app(
    engine: DistantEngine,
    catalogue: Catalogue,
    serve: ServeConfig = ServeConfig(),
    settings: MethodSettings = MethodSettings(),
    visits: Visits | None = None,
) -> FastAPI:
    """The application over an engine, which stops with it.

    Args:
        engine: as a server has it.
        catalogue: what is offered of it.
        serve: how much a client may ask.
        settings: those of requests that do not say.
        visits: what is told at /metrics, beside what the engine tells.
    """
    planner, texts = Planner(engine, catalogue, settings, serve), TokenTexts(engine.session.slm)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await engine.stop()

    app = FastAPI(
        title="Select to Think",
        version=__version__,
        lifespan=lifespan,
        responses=errors.REFUSALS,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    errors.install(app)
    add_answers(app, planner, texts)
    add_models(app, catalogue)
    add_tokens(app, engine, texts)
    add_state(app, engine, visits or Visits())
    app.router.routes.extend(page_routes())
    return app


def application(
    engine: DistantEngine,
    catalogue: Catalogue,
    serve: ServeConfig,
    settings: MethodSettings,
    access: AccessConfig,
    keys: ApiKeys,
    host: str,
) -> ASGIApp:
    """The application with keys, limits and metrics; `host` is where it listens."""
    visits = Visits()
    return guarded(create_app(engine, catalogue, serve, settings, visits), access, host, keys, visits.visited)


def add_answers(app: FastAPI, planner: Planner, texts: TokenTexts) -> None:
    """Chats and completions."""

    async def reply(request: Request, asked: ChatRequest | CompletionRequest) -> Response:
        """Answer a chat or a completion."""
        orders = await planner.orders(asked, int(request.headers.get("content-length", SHORT + 1)))
        form = (ChatForm if isinstance(asked, ChatRequest) else CompletionForm)(
            texts, as_ids=bool(asked.return_tokens_as_token_ids)
        )
        model, timeout_s = f"{planner.catalogue.name}:{orders[0].method.name}", planner.limits.request_timeout_s
        made = Reply(planner.engine, model, asked, request.receive, orders, form, timeout_s)
        request.state.model, request.state.usage = model, made.usage  # for the log
        return await EventStream.begun(made) if asked.stream else JSONResponse(await made.whole())

    @app.post("/v1/chat/completions", responses=STREAMED)
    async def chat_completions(request: Request, asked: ChatRequest) -> Response:
        """Answer a conversation."""
        return await reply(request, asked)

    @app.post("/v1/completions", responses=STREAMED)
    async def completions(request: Request, asked: CompletionRequest) -> Response:
        """Continue texts, or token ids, as they stand."""
        return await reply(request, asked)


STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The answer, or its stream."}
}


OPEN_METRICS: dict[int | str, dict[str, Any]] = {200: {"content": {"application/openmetrics-text": {}}}}


def add_models(app: FastAPI, catalogue: Catalogue) -> None:
    """What can be asked."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """One model for each method that this pair can serve."""
        return {"object": "list", "data": catalogue.models()}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        """One of them, also those that are not listed (maj@N)."""
        return catalogue.entry(model, catalogue.find(model, None))


def add_tokens(app: FastAPI, engine: DistantEngine, texts: TokenTexts) -> None:
    """Between texts and tokens, as vLLM has it."""
    slm = engine.session.slm

    def ids(asked: TokenizeRequest) -> list[int]:
        if asked.messages is not None:
            return prompt_ids(slm, Conversation(tuple(message.turn for message in asked.messages)))
        require_text(asked.prompt or "")
        return tokens_of(slm, asked.prompt or "", add_special_tokens=asked.add_special_tokens)

    @app.post("/tokenize")
    async def tokenize(asked: TokenizeRequest) -> dict[str, Any]:
        """Token ids of a text, or of the prompt that a conversation becomes."""
        found = await asyncio.to_thread(ids, asked)
        strings = [texts.text(token) for token in found] if asked.return_token_strs else None
        return {"count": len(found), "max_model_len": slm.max_positions, "tokens": found, "token_strs": strings}

    @app.get("/tokenizer_info", include_in_schema=False)  # for one client, not for people
    async def tokenizer_info() -> dict[str, str | None]:
        """What lm-evaluation-harness asks for to use these addresses as its tokenizer."""
        names = ("bos_token", "eos_token", "pad_token", "chat_template")
        return {name: getattr(slm.tokenizer, name) for name in names}

    @app.post("/detokenize")
    async def detokenize(asked: DetokenizeRequest) -> dict[str, str]:
        """The text of token ids, special ones included."""
        if wrong := [token for token in asked.tokens if token >= slm.vocab_size]:
            raise RequestError(f"tokens: {wrong[0]} is no token id below {slm.vocab_size}", param="tokens")
        return {"prompt": str(slm.tokenizer.decode(asked.tokens))}


def add_state(app: FastAPI, engine: DistantEngine, visits: Visits) -> None:
    """What is to be known of the server."""

    @app.get("/health")
    async def health() -> Response:
        """200 while it takes requests."""
        if engine.closing != "no":
            raise errors.stopping()
        return JSONResponse({"status": "ok"})

    @app.get("/version")
    async def version() -> dict[str, str]:
        """The version of this library."""
        return {"version": __version__}

    @app.get("/v1/s2t/state")
    async def state() -> dict[str, int | float]:
        """Counters."""
        found: dict[str, int | float] = await engine.ask("state")
        return found

    @app.get("/v1/s2t/examples")
    async def examples() -> dict[str, Any]:
        """Problems that the bundled pair knows how to solve; none for other pairs."""
        found = await asyncio.to_thread(example_problems) if engine.session.folder else []
        return {"note": EXAMPLES_NOTE if found else "", "examples": found}

    @app.get("/metrics", response_class=PlainTextResponse, responses=OPEN_METRICS)
    async def metrics(request: Request) -> Response:
        """What happened, for Prometheus, in the text format or as OpenMetrics."""
        text, content_type = visits.text(request.headers.get("accept", ""), await engine.ask("metrics"))
        return Response(text, headers={"Content-Type": content_type})


@cache
def example_problems() -> list[dict[str, str]]:
    """Of the validation split."""
    problems = load_split("validation", limit_per_domain=EXAMPLES)
    return [{"domain": each.domain, "question": each.question, "answer": each.answer} for each in problems]
