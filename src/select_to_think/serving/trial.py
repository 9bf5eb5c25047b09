"""A server under trial: `s2t serve` in a process of its own, its clients in another, and the offline runtime here.

Non-goals: what is measured (`bench.py`).
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
import psutil

from select_to_think.artefacts import Question
from select_to_think.config import DecodeConfig
from select_to_think.methods import find_method
from select_to_think.serving.load import Answer, Job, run_client
from select_to_think.serving.settings import BenchServeConfig
from select_to_think.session import Session
from select_to_think.structures import Generation, S2TError

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
START_SECONDS, SETTLE_SECONDS = 120.0, 5.0


@dataclass
class Server:
    """A server in a process of its own."""

    url: str
    process: psutil.Process

    def get(self, path: str) -> Any:
        """What it answers to a GET."""
        return httpx.get(self.url + path, timeout=60).json()

    @cached_property
    def model(self) -> str:
        """The id of its pair."""
        return str(self.get("/v1/models")["data"][0]["id"])

    @property
    def processes(self) -> list[psutil.Process]:
        """The server's and those that it started."""
        return [self.process, *self.process.children(recursive=True)]

    @property
    def memory_mib(self) -> float:
        """Resident memory; what processes share counts once where the system tells each one's part."""
        found = [process.memory_full_info() for process in self.processes]
        return float(sum(getattr(each, "pss", each.rss) for each in found)) / 2**20

    @property
    def cpu_seconds(self) -> float:
        """Of all its threads, so far."""
        return float(sum(sum(each.cpu_times()[:2]) for each in self.processes))

    def settled(self) -> dict[str, float]:
        """Its state once nothing runs or waits any more, or after a few seconds."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (state := self.get("/v1/s2t/state"))["rows"] + state["queue"] and time.monotonic() < deadline:
            time.sleep(0.05)
        return dict(state)


@contextmanager
def server(*flags: str) -> Iterator[Server]:
    """`s2t serve` with these flags, on a free port, for as long as it is needed.

    Raises:
        S2TError: it did not start.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "select_to_think", "serve", "--port", str(port), *flags]
        process = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
            while not answers(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    last = log.read().decode(errors="replace").strip().splitlines()[-1:] or ["it says nothing"]
                    raise S2TError(f"s2t serve did not start: {last[0]}")
                time.sleep(0.1)
            yield Server(url, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(timeout=60)


def answers(url: str) -> bool:
    """Whether a server is ready."""
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@dataclass(frozen=True)
class Bench:
    """What the parts work with."""

    config: BenchServeConfig
    session: Session
    server: Server
    questions: Sequence[str]

    def body(self, number: int, **fields: Any) -> dict[str, Any]:
        """The body of a chat request with the `number`-th question, streamed; fields that are None are left out."""
        body = {
            "model": self.server.model,
            "messages": [{"role": "user", "content": self.question(number)}],
            "max_tokens": self.config.new_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "s2t": {"method": self.config.method},
            **fields,
        }
        return {name: value for name, value in body.items() if value is not None}

    def question(self, number: int) -> str:
        """One of the questions, over and over."""
        return self.questions[number % len(self.questions)]

    def texts(self, count: int) -> list[str]:
        """The first questions."""
        return [self.question(number) for number in range(count)]

    def ids(self, method: str, question: str) -> list[int]:
        """The token ids of a question's prompt."""
        return self.session.prompt(question, self.config.new_tokens, with_llm=find_method(method).asks_llm)

    def ask(self, count: int, **settings: Any) -> list[Answer]:
        """Ask `count` questions. Raises S2TError if an answer is missing."""
        bodies = [self.body(number) for number in range(count)]
        return whole(run_client(Job(self.server.url, [CHAT], bodies, **settings)))

    def offline(self, questions: Sequence[Question], method: str, **settings: Any) -> list[Generation]:
        """The answers to questions without a server."""
        own = {"max_new_tokens": self.config.new_tokens, "max_batch": self.config.streams, **settings}
        found = dict(self.session.stream(questions, method, DecodeConfig(**own)))
        return [found[number] for number in range(len(questions))]


def whole(found: list[Answer]) -> list[Answer]:
    """The answers, if none is missing."""
    for answer in found:
        if answer.error or answer.status != 200:
            raise S2TError(f"request {answer.number} of {len(found)} failed: {answer.status} {answer.error}")
    return found
