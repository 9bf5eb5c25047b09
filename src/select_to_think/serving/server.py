"""Running the application under uvicorn: it stops without cutting streams off.

Non-goals: the application (`app.py`).
"""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp

from select_to_think.config import ServeConfig
from select_to_think.serving.connections import UVICORN
from select_to_think.serving.readers import ServingEngine
from select_to_think.structures import S2TError

LAST_WORDS_S = 5.0  # for streams to say that they were ended


def bind(serve: ServeConfig) -> socket.socket:
    """A socket at the address, on which nobody listens yet.

    Raises:
        S2TError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in serve.host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((serve.host, serve.port))
    except OSError as error:
        found.close()
        raise S2TError(
            f"cannot listen at {serve.host}:{serve.port} ({error.strerror}): choose another --port or --host"
        ) from error
    return found


def address(bound: socket.socket) -> str:
    """Where clients find a socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Takes no more requests when it stops, lets answers end for a while, and then tells the others that they do."""

    def __init__(self, app: ASGIApp, engine: ServingEngine, serve: ServeConfig) -> None:
        """Not running yet."""
        self.engine, self.patience_s = engine, serve.shutdown_timeout_s
        super().__init__(
            uvicorn.Config(
                app,
                **UVICORN,
                timeout_graceful_shutdown=int(serve.shutdown_timeout_s + LAST_WORDS_S) + 1,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in good order."""
        self.engine.refuse()
        asyncio.get_running_loop().call_later(self.patience_s, self.engine.halt)
        await super().shutdown(sockets)
