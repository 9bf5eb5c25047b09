"""The line between an engine and a server: two ends of a pair of sockets, in one process or in two.

Messages are pickles, since both ends are this program.

Non-goals: what they say (`engine.py`, `readers.py`).
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from selectors import EVENT_READ, DefaultSelector
from threading import Lock
from typing import Any

LENGTH = struct.Struct("!Q")
PIECE = 1 << 18  # bytes read at once
Message = tuple[Any, ...]


def packed(*message: Any) -> bytes:
    """A message as it travels."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def unpacked(received: bytearray) -> Iterator[Message]:
    """The whole messages at the beginning of what was received, which are taken out of it."""
    begin = 0
    while len(received) >= begin + LENGTH.size:
        end = begin + LENGTH.size + LENGTH.unpack_from(received, begin)[0]
        if len(received) < end:
            break
        yield pickle.loads(received[begin + LENGTH.size : end])  # noqa: S301 - of this process, or one forked from it
        begin = end
    del received[:begin]


class Line:
    """The engine's end; a server's event loop has the other."""

    def __init__(self) -> None:
        """`far` is the other end."""
        self.near, self.far = socket.socketpair()
        self.received, self.sending = bytearray(), Lock()

    def send(self, *message: Any) -> None:
        """Send a message; to nobody if the other end is gone."""
        with self.sending, suppress(OSError):
            self.near.sendall(packed(*message))

    def messages(self, *, wait: bool) -> list[Message]:
        """What has come; with `wait`, at least one. Raises EOFError once the other end is gone."""
        found: list[Message] = []
        while self.arrivals.select(None if wait and not found else 0):
            try:
                data = self.near.recv(PIECE)
            except OSError:
                data = b""
            if not data:
                raise EOFError
            self.received += data
            found += unpacked(self.received)
        return found

    @cached_property
    def arrivals(self) -> DefaultSelector:
        """Tells whether something has come."""
        selector = DefaultSelector()
        selector.register(self.near, EVENT_READ)
        return selector

    def close(self) -> None:
        """The other end hears no more."""
        self.near.close()
