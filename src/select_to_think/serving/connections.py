"""Connections of a server: time-outs that uvicorn has not, errors that clients can read, logs as JSON lines.

uvicorn closes connections that are idle between requests. Here a connection is also closed when the head of a request
drips, or when nobody reads the answer.

Non-goals: what stands in the requests (`access.py`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from select_to_think.serving.access import stack
from select_to_think.serving.errors import RequestError

HEAD_SECONDS = 10.0  # in which the head of a request must have arrived
STALLED_SECONDS = 60.0  # in which the client must have read something of what waits for it


class TimedProtocol(H11Protocol):
    """HTTP/1.1 with a time limit on the head of every request and on answers that are not read."""

    head_seconds, stalled_seconds = HEAD_SECONDS, STALLED_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timers: dict[str, asyncio.TimerHandle] = {}
        self.start("head", self.head_seconds, self.head_is_late)

    def start(self, timer: str, seconds: float, then: Callable[[], None]) -> None:
        """Do something in `seconds`, unless that timer is stopped or runs already."""
        if timer not in self.timers:
            self.timers[timer] = self.loop.call_later(seconds, then)

    def stop(self, timer: str) -> None:
        """Stop a timer, if it runs."""
        if timer in self.timers:
            self.timers.pop(timer).cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self.start("head", self.head_seconds, self.head_is_late)
            return
        self.stop("head")
        if self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
            self.transport.close()  # the answer did not wait for the rest

    def pause_writing(self) -> None:
        super().pause_writing()
        self.start("stalled", self.stalled_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self.stop("stalled")
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in list(self.timers):
            self.stop(timer)
        super().connection_lost(exc)

    def head_is_late(self) -> None:
        """End a connection whose request does not come."""
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            return
        if not self.conn.trailing_data[0]:  # not even begun
            self.transport.close()
        else:
            self.refuse(
                408,
                f"the head of the request did not arrive in {self.head_seconds:g} s: send it faster",
                "request_timeout",
            )

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for bytes that are no request."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.refuse(400, "this is no HTTP/1.1 request, or its head is too long", "invalid_http")
        else:
            self.transport.close()

    def refuse(self, status: int, message: str, code: str) -> None:
        """Answer in the form that OpenAI clients expect, and close."""
        body = json.dumps(RequestError(message, status, code=code).body).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class JsonLines(logging.Formatter):
    """One JSON object a line. Errors are named with their place, without their message, which may quote a prompt."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; what stands in its `facts` becomes fields."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info and (error := record.exc_info[1]):
            line.update(exception=type(error).__name__, stack=stack(error))
        return json.dumps(line)


LOG_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonLines}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": level, "propagate": False}
        for name, level in (("uvicorn", "WARNING"), ("select_to_think.serving", "INFO"))
    },
}
UVICORN: dict[str, Any] = {  # what every server of ours is started with
    "http": TimedProtocol,
    "ws": "none",
    "access_log": False,
    "server_header": False,
    "log_config": LOG_CONFIG,
}
