"""The page at `/`: static files, and the headers that let it load nothing from elsewhere and run nothing inline.

Non-goals: what the page shows; it is a client of the API like any other.
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from select_to_think.serving.access import SECURITY_HEADERS

FOLDER = Path(__file__).parent / "page"
HEADERS = {**SECURITY_HEADERS, "cache-control": "no-cache"}  # asked for again, with its tag: an upgrade is seen at once


class PageFiles(StaticFiles):
    """The files of the page, with its headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def page_routes() -> list[BaseRoute]:
    """`GET /` and `GET /page/*`. They hold no secret and need no API key."""
    files = PageFiles(directory=FOLDER)

    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    return [Route("/", index), Mount("/page", files)]
