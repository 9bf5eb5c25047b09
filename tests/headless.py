"""A real headless Chromium for tests, and a page that remembers what should not happen in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 20_000  # a busy machine may starve the browser for longer than the default 30 s


def chromium() -> Iterator[Browser]:
    """A browser for the length of a fixture; skips where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="the browser tests need `pip install playwright`")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser installed (looked for {', '.join(NAMES)})")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=FLAGS, timeout=PATIENCE_MS)
        yield running
        running.close()


def new_page(browser: Browser, **options: Any) -> Page:
    """A page in a context of its own; `messages` and `requests` collect what it logs and asks for."""
    page = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options}).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.messages, page.requests = [], []  # type: ignore[attr-defined]
    page.on("console", lambda message: page.messages.append(message.text))  # type: ignore[attr-defined]
    page.on("pageerror", lambda error: page.messages.append(str(error)))  # type: ignore[attr-defined]
    page.on("request", lambda request: page.requests.append(request.url))  # type: ignore[attr-defined]
    return page
