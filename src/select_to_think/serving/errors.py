"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}` with the right status.

Non-goals: finding them; see `schemas.py` and `jobs.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from select_to_think.structures import ModelRefused, ModelUnavailable, PromptTooLong, S2TError
from select_to_think.text import visible

logger = logging.getLogger(__name__)
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}
MESSAGES = {404: "there is nothing at this address", 405: "this address does not take that method"}


class Problem(BaseModel):
    """What is wrong, as clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(BaseModel):
    """The body of every answer that is none."""

    error: Problem


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "A request that cannot be served.", "model": Refusal},
    "5XX": {"description": "The server failed, stops, or took too long.", "model": Refusal},
}


class RequestError(Exception):
    """What a request is refused with."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`param` is the field at fault; `code` a word that programs can compare."""
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return Refusal(
            error=Problem(
                message=visible(str(self)), type=kind, param=self.param and visible(self.param), code=self.code
            )
        ).model_dump()

    @property
    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body, self.status, dict(self.headers or {}))


class ClientGone(Exception):
    """Nobody reads the answers any more."""


def stopping() -> RequestError:
    """What is told to everybody once the server ends."""
    return RequestError("the server is stopping", 503, code="stopping")


def request_error(error: Exception) -> RequestError:
    """What a client is told of any error; those that it cannot mend are logged, and nothing of them is told."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, PromptTooLong):
        return RequestError(str(error), param="messages", code="context_length_exceeded")
    if isinstance(error, ModelUnavailable | ModelRefused):
        logger.error("%s", error)
        return RequestError(str(error), 503, code="model_unavailable")
    if isinstance(error, S2TError):
        return RequestError(str(error))
    logger.error("a request failed", exc_info=error)
    return RequestError("the server failed on this request; its log says why", 500, code="internal_error")


def path_in(body: Any, loc: Sequence[str | int]) -> list[str]:
    """Where in `body` a finding of pydantic is, without the names that it gives to the members of unions."""
    path: list[str] = []
    for number, part in enumerate(loc):
        inside = (isinstance(body, dict) and part in body) or (isinstance(body, list) and isinstance(part, int))
        if inside and (isinstance(body, dict) or int(part) < len(body)):
            path.append(str(part))
            body = body[part]
        elif isinstance(body, dict) and number == len(loc) - 1:
            path.append(str(part))
    return path


def invalid(errors: Sequence[Mapping[str, Any]], body: Any) -> RequestError:
    """The first of the findings of pydantic about `body`, in one line."""
    found = errors[0]
    path = path_in(body, found["loc"][1:])
    param = ".".join(path) or None
    if found["type"] == "json_invalid":
        return RequestError(f"the body is not valid JSON: {found['ctx']['error']}", code="invalid_json")
    if found["type"] == "missing" and not path:
        return RequestError("the body is missing: send a JSON object", code="missing_body")
    if found["type"] == "extra_forbidden":
        return RequestError(f"Unrecognized request argument supplied: {param}", param=param, code="unknown_parameter")
    if found["type"] == "none_required":
        return RequestError(f"{param} is not supported by this server: leave it out", param=param, code="unsupported")
    if not path:
        if found["type"] == "value_error":
            return RequestError(str(found["ctx"]["error"]), code="invalid_value")
        return RequestError("the body must be a JSON object in UTF-8, sent with Content-Type: application/json")
    return RequestError(f"{param}: {found['msg']}", param=param, code="invalid_value")


def install(app: FastAPI) -> None:
    """Let every refusal and failure of `app` be answered in this form."""

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return invalid(error.errors(), error.body).response

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        message = MESSAGES.get(error.status_code, str(error.detail))
        return RequestError(message, error.status_code, headers=error.headers).response

    @app.exception_handler(RequestError)
    @app.exception_handler(S2TError)
    @app.exception_handler(Exception)
    async def on_error(request: Request, error: Exception) -> JSONResponse:
        return request_error(error).response

    @app.exception_handler(ClientGone)
    async def on_gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)
