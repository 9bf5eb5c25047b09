"""The client of `s2t bench serve`: asks a server many things, in a process of its own.

`python -m select_to_think.serving.load` reads a `Job` as JSON from stdin and writes what came of each request to
stdout. Times are those of the monotonic clock, which all processes of a machine share.

Non-goals: what the numbers mean (`bench.py`). Nothing here may import torch.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

SECONDS = 600.0  # after which an answer counts as lost


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


async def do_job(job: Job) -> list[Answer]:
    """Ask everything; an answer for each body, in their order."""
    answers = [Answer(number) for number in range(len(job.bodies))]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=job.url, timeout=SECONDS, limits=limits) as client:
        if job.starts:
            begun = time.monotonic()
            tasks = [later(begun + at, client, job, answer) for at, answer in zip(job.starts, answers, strict=True)]
            await asyncio.gather(*tasks)
        else:
            waiting = iter(answers)

            async def one_after_another() -> None:
                for answer in waiting:
                    await ask(client, job, answer)

            await asyncio.gather(*(one_after_another() for _ in range(job.streams)))
    return answers


async def later(start: float, client: httpx.AsyncClient, job: Job, answer: Answer) -> None:
    """Ask at a time; a client that is late counts as waiting."""
    await asyncio.sleep(start - time.monotonic())
    await ask(client, job, answer)
    answer.sent = start


async def ask(client: httpx.AsyncClient, job: Job, answer: Answer) -> None:
    """One request, and its answer as it comes."""
    body, path = job.bodies[answer.number], job.paths[answer.number % len(job.paths)]
    answer.sent = time.monotonic()
    try:
        async with client.stream("POST", path, json=body) as response:
            answer.status = response.status_code
            if response.status_code != 200 or not body.get("stream"):
                take(answer, json.loads(await response.aread()))
            else:
                chunks = 0
                async for event in events(response):
                    take(answer, event)
                    chunks += 1
                    if chunks == job.leave_after:
                        break
    except (httpx.HTTPError, ValueError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.ended = time.monotonic()


async def events(response: httpx.Response) -> AsyncIterator[Any]:
    """The JSON values of server-sent events before [DONE]; a stream that ends without it is an error.

    It is read to its end, so that the connection serves the next request.
    """
    rest = event = b""
    async for data in response.aiter_raw():
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
    found = asyncio.run(do_job(Job(**json.load(sys.stdin))))
    json.dump([asdict(answer) for answer in found], sys.stdout)
