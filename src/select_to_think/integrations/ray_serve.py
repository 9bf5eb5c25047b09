"""`s2t serve` on Ray Serve: replicas of the server, each with its own models, behind one address.

    serve run select_to_think.integrations.ray_serve:build replicas=2 gpus=0.5 pair=demo method=s2t-local

`replicas`, `cpus` and `gpus` say how many there are and what each takes; every other name is a setting of `s2t serve`
with `_` for `-` (in a YAML file of `serve deploy`: `args`). Requests that begin alike go to the same replica while the
load is even, and its prefix cache has what they share. That is the work of Ray's own `PrefixCacheAffinityRouter`, which
must see the prompt: hence a front without models, which reads requests and hands them on.

A request goes through a replica's whole application, keys and limits included; `/metrics` and `/v1/s2t/state` are of
the replica that answers. Ray Serve's own settings say where it listens.

Non-goals: scaling by load and updates without a pause, which Ray Serve's own configuration has.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from select_to_think.checked import Checked, configurations, option
from select_to_think.config import (
    DecodeConfig,
    MentorConfig,
    MethodSettings,
    PairConfig,
    RuntimeConfig,
    SelectConfig,
    ServeConfig,
)
from select_to_think.serving.errors import RequestError
from select_to_think.serving.settings import SERVED, AccessConfig

# The public name of the same class, ray.serve.llm.request_router, cannot be imported without vLLM.
ROUTER = "ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router.PrefixCacheAffinityRouter"
SENT = "type asgi http_version method scheme path raw_path query_string headers client".split()  # of a request
MOST_OPEN = 1000  # requests of one front or replica; the server's own max_queue refuses before


@dataclass(frozen=True)
class ReplicaConfig(Checked):
    """How many replicas there are, and what each takes of the cluster."""

    replicas: int = option(1, "Replicas, each with its own models.", low=1)
    cpus: float = option(1.0, "CPU cores of a replica.", low=0.0)
    gpus: float = option(0.0, "GPUs of a replica; at 0.5 two share one.", low=0.0)


CONFIGS = (
    ReplicaConfig,
    PairConfig,
    DecodeConfig,
    SelectConfig,
    MentorConfig,
    RuntimeConfig,
    ServeConfig,
    AccessConfig,
)


@dataclass(frozen=True)
class Asked:
    """A request on its way to a replica."""

    scope: dict[str, Any]  # of ASGI
    body: bytes

    @property
    def prompt(self) -> str:
        """What the router compares: the text, or the turns of the conversation."""
        try:
            body = json.loads(self.body or b"{}")
            said = body.get("prompt") or [turn.get("content") for turn in body.get("messages") or ()]
        except (ValueError, AttributeError, TypeError):  # the application refuses it
            return ""
        return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


class Front:
    """Takes requests and hands them to replicas."""

    def __init__(self, replicas: Any, access: AccessConfig) -> None:
        from select_to_think.serving.access import ApiKeys, Gate

        self.replicas = replicas.options(stream=True)
        self.gate = Gate(replicas, access, "", ApiKeys(()))  # to read with; a replica checks who asks

    async def __call__(self, request: Request) -> Response:
        """The answer of a replica, as it comes; a body that is too large, or drips, is not read to its end."""
        try:
            body = await self.gate.read(request.headers, request.receive)
        except RequestError as error:
            return error.response
        if body is None:  # the client has left
            return Response()
        sent = {name: request.scope[name] for name in SENT if name in request.scope}
        asked = Asked({**sent, "headers": list(sent["headers"]), "root_path": ""}, body)
        answer = self.replicas.answer.remote(asked)
        status, headers = await anext(answer)
        response = StreamingResponse(answer, status_code=status)
        response.raw_headers = headers
        return response


class Replica:
    """The application of `s2t serve`, in a process of the cluster."""

    def __init__(self, own: Mapping[type, Any]) -> None:
        from select_to_think.serving.access import ApiKeys
        from select_to_think.serving.app import application
        from select_to_think.serving.catalogue import Catalogue
        from select_to_think.serving.engine import Engine
        from select_to_think.session import Session

        decode, server, access = own[DecodeConfig], own[ServeConfig], own[AccessConfig]
        asked = MethodSettings(decode, own[SelectConfig], own[MentorConfig])
        session = Session.load(own[PairConfig], own[RuntimeConfig])
        catalogue = Catalogue(session, server, asked)
        self.engine = Engine(session, max_rows=decode.max_batch, max_queue=server.max_queue)
        self.distant = self.engine.distant
        keys = ApiKeys.load(access.api_key_file)
        self.app = application(self.distant, catalogue, server, asked, access, keys, server.host)
        self.name = serve.get_replica_context().replica_id.unique_id.encode()
        self.engine.start()

    def check_health(self) -> None:
        """Ray replaces a replica that raises here."""
        if not self.engine.thread.is_alive():
            raise RuntimeError("the engine has ended")

    async def answer(self, asked: Asked) -> AsyncIterator[Any]:
        """(status, headers), and then the pieces of the body. A reader who leaves ends the work on it."""
        self.distant.start()
        messages: asyncio.Queue[Any] = asyncio.Queue()
        gone, body = asyncio.Event(), [{"type": "http.request", "body": asked.body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if body:
                return body.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        work: asyncio.Task[None] = asyncio.create_task(self.app(asked.scope, receive, messages.put))  # type: ignore[arg-type]
        work.add_done_callback(lambda done: messages.put_nowait(None))
        try:
            while (message := await messages.get()) is not None:
                if message["type"] == "http.response.start":
                    yield message["status"], [*message["headers"], (b"x-s2t-replica", self.name)]
                elif message.get("body"):
                    yield message["body"]
            await work
        finally:
            gone.set()


def build(settings: dict[str, Any]) -> serve.Application:
    """The application, for `serve run` and `serve deploy`.

    Raises:
        S2TError: an unknown setting, or a value that it does not take.
    """
    own = configurations(CONFIGS, settings, SERVED)
    size = own[ReplicaConfig]
    options = {"num_cpus": size.cpus, "num_gpus": size.gpus}
    replicas = serve.deployment(
        Replica,
        name="s2t",
        num_replicas=size.replicas,
        ray_actor_options=options,
        max_ongoing_requests=MOST_OPEN,
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
    ).bind(own)
    front = serve.deployment(Front, name="front", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=MOST_OPEN)
    return front.bind(replicas, own[AccessConfig])
