"""The client of `s2t bench serve`: asks a server many things, in a process of its own.

`python -m select_to_think.serving.load` reads a `Job` as JSON from stdin and writes what came of each request to
stdout. Times are those of the monotonic clock, which all processes of a machine share.

It shares the machine's cores with the server, so it shall cost little: threads and the standard library's client take a
fraction of what an asynchronous one does. Nothing here may import torch.

Non-goals: what the numbers mean (`bench.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

IDLE_SECONDS = 2.0  # that a connection may wait; the server ends it after five
SECONDS = 600.0  # after which an answer counts as lost
Idle = list[tuple[float, HTTPConnection]]  # connections that wait for a next request, and since when


@dataclass(frozen=True)
class Job:
    """What is to be asked: a body for each request, and when.

    With `starts`, each request begins so many seconds after the job; otherwise `streams` are open at a time.
    """

    url: str
    paths: Sequence[str]
    bodies: Sequence[dict[str, Any]]
    streams: int = 1
    starts: Sequence[float] = ()
    leave_after: int = 0  # chunks after which the client hangs up; 0: never


@dataclass
class Answer:
    """What came of a request. Times in seconds of the monotonic clock; 0 for what did not happen."""

    number: int
    status: int = 0
    text: str = ""
    tokens: int = 0  # as `usage` counts them
    finish_reason: str | None = None
    sent: float = 0.0
    times: list[float] = field(default_factory=list)  # of each token, where the server names tokens, or of each chunk
    ended: float = 0.0
    error: str = ""

    @property
    def first_token_seconds(self) -> float:
        """From the request to its first token."""
        return self.times[0] - self.sent


def run_client(job: Job) -> list[Answer]:
    """Do a job in another process."""
    command = [sys.executable, "-m", "select_to_think.serving.load"]
    done = subprocess.run(command, input=json.dumps(asdict(job)), capture_output=True, text=True, check=True)
    return [Answer(**found) for found in json.loads(done.stdout)]


def do_job(job: Job) -> list[Answer]:
    """Ask everything; an answer for each body, in their order."""
    answers: list[Answer] = [Answer(number) for number in range(len(job.bodies))]
    idle: Idle = []
    waiting, begun = iter(answers), time.monotonic()

    def one_after_another() -> None:
        for answer in waiting:
            ask(idle, job, answer)

    def late(answer: Answer, start: float) -> None:
        ask(idle, job, answer)
        answer.sent = start  # a client that is late counts as waiting

    with ThreadPoolExecutor(len(answers) if job.starts else job.streams) as pool:
        asked = [pool.submit(one_after_another) for _ in range(0 if job.starts else job.streams)]
        for start, answer in zip(job.starts, answers, strict=False):
            time.sleep(max(0.0, begun + start - time.monotonic()))
            asked.append(pool.submit(late, answer, begun + start))
        for each in asked:
            each.result()
    return answers


def connection_to(url: str, idle: Idle) -> HTTPConnection:
    """The connection that was used last, unless the server may have given it up, or a new one."""
    with suppress(IndexError):
        since, connection = idle.pop()
        if time.monotonic() - since < IDLE_SECONDS:
            return connection
    return HTTPConnection(urlsplit(url).netloc, timeout=SECONDS)


def ask(idle: Idle, job: Job, answer: Answer) -> None:
    """One request, and its answer as it comes."""
    body, path = job.bodies[answer.number], job.paths[answer.number % len(job.paths)]
    connection, data = connection_to(job.url, idle), json.dumps(body).encode()
    answer.sent = time.monotonic()
    try:
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer.status = response.status
        if response.status == 200 and body.get("stream"):
            for chunks, event in enumerate(events(response), 1):
                take(answer, event)
                if chunks == job.leave_after:
                    break
        else:
            take(answer, json.loads(response.read()))
        answer.ended = time.monotonic()
        if response.isclosed():
            return idle.append((time.monotonic(), connection))
    except (OSError, HTTPException, ValueError) as error:
        answer.error, answer.ended = f"{type(error).__name__}: {error}", time.monotonic()
    connection.close()


def events(response: HTTPResponse) -> Iterator[Any]:
    """The JSON values of server-sent events before [DONE]; a stream that ends without it is an error.

    It is read to its end, so that the connection serves the next request.
    """
    rest = event = b""
    while data := response.read1():
        *whole, rest = (rest + data).split(b"\n\n")
        for event in whole:
            if event != b"data: [DONE]":
                yield json.loads(event.removeprefix(b"data: "))
    if event != b"data: [DONE]":
        raise ValueError("the stream ended without [DONE]")


def take(answer: Answer, value: dict[str, Any]) -> None:
    """Note a whole answer, a chunk of one, or an error."""
    if error := value.get("error"):
        answer.error = str(error["message"])
        return
    for choice in value["choices"]:
        part = choice.get("message") or choice.get("delta") or choice
        answer.text += part.get("text") or part.get("content") or ""
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        logprobs = choice.get("logprobs") or {}
        named = logprobs.get("content", logprobs.get("tokens"))
        count = len(named) if named is not None else bool(part.get("text") or part.get("content"))
        answer.times += [time.monotonic()] * count
    if usage := value.get("usage"):
        answer.tokens = usage["completion_tokens"]


if __name__ == "__main__":
    json.dump([asdict(answer) for answer in do_job(Job(**json.load(sys.stdin)))], sys.stdout)
