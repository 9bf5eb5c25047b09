"""Answers of a running server (`s2t serve`), as they are written."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from select_to_think.checked import Checked
from select_to_think.cli.chat.dialogue import KEY_VARIABLE, Answering, Example, Turn, in_turn
from select_to_think.cli.trace import Ending
from select_to_think.config import MethodSettings
from select_to_think.structures import S2TError

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 10.0
READ_SECONDS = 600.0  # until the next step; a long prompt takes its time
DRAWING = ("temperature", "top_p", "seed")  # the fields of DecodeConfig that a request may have
END = "[DONE]"  # the last event of a stream


class RemoteChat:
    """A server that is asked one question after the other."""

    def __init__(self, url: str, key: str | None) -> None:
        """Ask the server what it offers. Raises S2TError if it does not answer, or not to this key."""
        import httpx

        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        with self.explained():
            self.client = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)
            models = self.get("/v1/models")["data"]
            offered = {each["s2t"]["method"]: each["s2t"] for each in models}
            self.offered = {name: str(record["help"]) for name, record in offered.items()}
            self.default = next(name for name, record in offered.items() if record["default"])
            self.name = str(models[0]["id"])

    def methods(self) -> Mapping[str, str]:
        """The methods that this server offers."""
        return self.offered

    def examples(self) -> Sequence[Example]:
        """What the server says may be asked of its pair."""
        with self.explained():
            return in_turn(Example(**each) for each in self.get("/v1/s2t/examples")["examples"])

    def get(self, path: str) -> Any:
        """What the server answers to a plain request."""
        response = self.client.get(path)
        refuse(response)
        return response.json()

    def reply(
        self, turns: Sequence[Turn], method: str | None, settings: MethodSettings, named: Collection[str] = ()
    ) -> Answering:
        """Answer what was said last. The server drops what is not read to its end."""
        last: dict[str, Any] = {}
        tail = ""  # text that no step has: a part of a character, at the end
        body = {"model": self.name, **request(turns, method or self.default, settings, named)}
        with self.explained(), self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            refuse(response)
            for chunk in chunks(response.iter_lines()):
                for choice in chunk["choices"]:
                    last = {**(choice.get("s2t") or {}), "finish_reason": choice["finish_reason"]}
                    tail += "" if last.get("steps") else choice["delta"].get("content") or ""
                    yield from last.get("steps", ())
            known = {spec.name: last[spec.name] for spec in fields(Ending) if spec.name in last}
            ending = Ending(**known, tail=tail)
        yield ending

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say in one line what is wrong with the server or the way to it."""
        import httpx

        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeEncodeError) as error:
            raise S2TError(f"{self.url!r} cannot be asked ({error}): write it as http://127.0.0.1:8000") from error
        except httpx.ConnectError as error:
            raise S2TError(f"nobody answers at {self.url} ({error}): start a server with `s2t serve`") from error
        except httpx.HTTPError as error:
            raise S2TError(
                f"the connection to {self.url} broke ({error or type(error).__name__}): try again"
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
            raise S2TError(
                f"what {self.url} says is not what `s2t serve` says ({error!r}): check the address"
            ) from error


def request(
    turns: Sequence[Turn], method: str, settings: MethodSettings, named: Collection[str] = ()
) -> dict[str, Any]:
    """The body that asks for an answer with its trace. What is at its default and not `named` is left to the server."""
    decode = changed(settings.decode)
    return {
        "messages": [{"role": role, "content": text} for role, text in turns],
        **({"max_tokens": decode["max_new_tokens"]} if "max_new_tokens" in decode else {}),
        **{name: decode[name] for name in DRAWING if name in decode},
        "stream": True,
        "s2t": {
            "method": method,
            "trace": True,
            "alternatives": settings.alternatives,
            **changed(settings.select, named),
            **changed(settings.mentor),
        },
    }


def changed(config: Checked, named: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a configuration that are `named`, or not at their default."""
    given = {spec.name: (getattr(config, spec.name), spec.default) for spec in fields(config)}  # type: ignore[arg-type]
    return {name: value for name, (value, default) in given.items() if name in named or value != default}


def refuse(response: httpx.Response) -> None:
    """Raise S2TError for an answer that is an error, with its own message if there is one."""
    if not response.is_error:
        return
    response.read()
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        message = f"the server answered {response.status_code} {response.reason_phrase}"
    if response.status_code == 401:
        message += f" (the key is read from {KEY_VARIABLE})"
    raise S2TError(message)


def chunks(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream. Raises S2TError for an error among them, or where the end is missing."""
    for line in lines:
        name, _, value = line.partition(":")
        if name != "data":
            continue
        if value.strip() == END:
            return
        chunk = json.loads(value)
        if "error" in chunk:
            raise S2TError(str(chunk["error"]["message"]))
        yield chunk
    raise S2TError("the answer broke off: ask again")
