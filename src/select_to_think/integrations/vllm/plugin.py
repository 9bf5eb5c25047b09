"""Our server inside vLLM's, under /s2t: an endpoint plug-in (group `vllm.endpoint_plugins`).

    VLLM_PLUGINS=select-to-think vllm serve FOLDER ... --additional-config '{"s2t": {"llm": "http://host:port/v1"}}'

/s2t/v1/chat/completions takes and tells what `s2t serve` does at /v1/chat/completions; vLLM's own addresses stay as
they are. Settings are those of `s2t serve`, by the names of their flags with underscores. vLLM's API keys hold here.

Non-goals: the routes (`serving/app.py`), decoding (`session.py`).
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from select_to_think.checked import configurations
from select_to_think.config import DecodeConfig, MethodSettings, PairConfig, RuntimeConfig, SelectConfig, ServeConfig
from select_to_think.integrations.vllm.marks import OWN
from select_to_think.integrations.vllm.session import VllmSession
from select_to_think.serving.access import ApiKeys
from select_to_think.serving.app import application
from select_to_think.serving.catalogue import Catalogue
from select_to_think.serving.engine import Engine
from select_to_think.serving.settings import SERVED, AccessConfig

PREFIX = "/s2t"
CONFIGS = (PairConfig, RuntimeConfig, DecodeConfig, SelectConfig, ServeConfig, AccessConfig)
GIVEN_BY_FOLDER = {"slm", "scorer", "distill"}
GIVEN_BY_VLLM = {"host", "port", "device", "dtype", "max_batch", "shutdown_timeout_s"}


class Mounted:
    """The application below a prefix, once there is one."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, as if it stood at the root."""
        path = scope["path"].removeprefix(PREFIX) or "/"
        await self.app({**scope, "path": path, "root_path": ""}, receive, send)


class Plugin:
    """What vLLM loads."""

    name = "select-to-think"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Take the addresses below the prefix."""
        self.mounted = Mounted()
        app.mount(PREFIX, self.mounted)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Make our server over vLLM's engine.

        Raises:
            S2TError: unknown settings, a model that was not exported for this, or an engine that was started otherwise.
        """
        given = engine_client.vllm_config.additional_config.get(OWN, {})
        own = configurations(CONFIGS, given, SERVED, without=GIVEN_BY_FOLDER | GIVEN_BY_VLLM)
        rows = engine_client.vllm_config.scheduler_config.max_num_seqs
        session = VllmSession(engine_client, asyncio.get_running_loop(), own[PairConfig], own[RuntimeConfig])
        serve, settings = own[ServeConfig], MethodSettings(own[DecodeConfig], own[SelectConfig])
        catalogue = await asyncio.to_thread(Catalogue, session, serve, settings)
        engine = Engine(session, max_rows=rows, max_queue=serve.max_queue)
        engine.start()
        distant = engine.distant
        distant.start()
        host, keys = args.host or "0.0.0.0", keys_of(args, own[AccessConfig])
        self.mounted.app = application(distant, catalogue, serve, settings, own[AccessConfig], keys, host)


def keys_of(args: Any, access: AccessConfig) -> ApiKeys:
    """vLLM's keys and ours."""
    keys = ApiKeys(args.api_key or filter(None, [os.environ.get("VLLM_API_KEY")]))
    keys.digests += ApiKeys.load(access.api_key_file).digests
    return keys
