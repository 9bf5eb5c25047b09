"""A tiny builder of HTML and SVG in which text can only end up escaped.

Non-goals: templates and documents (see `report.py`).
"""

from __future__ import annotations

import json
import re
from html import escape
from importlib.resources import files
from typing import Any

# Control characters that HTML cannot carry, even as a reference.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def page_file(name: str) -> str:
    """The text of one of the files in `page/`."""
    return (files("select_to_think.analysis") / "page" / name).read_text(encoding="utf-8")


class Html(str):
    """Markup that is safe to insert as it is."""


def text(value: object) -> Html:
    """`value` as escaped text. Characters that HTML cannot carry become U+FFFD."""
    return Html(escape(_FORBIDDEN.sub("\ufffd", str(value))))


def join(*parts: object) -> Html:
    """The parts one after the other, each escaped unless it is `Html`."""
    return Html("".join(part if isinstance(part, Html) else text(part) for part in parts if part is not None))


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """`<name attributes>children</name>`; in attribute names `_` stands for `-`, and a final one is dropped.

    Attributes that are None or False are left out; True gives a bare attribute.
    """
    written = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        written += f" {label}" if value is True else f' {label}="{text(value)}"'
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def embedded_json(value: Any) -> Html:
    """JSON for the inside of a `<script type="application/json">`, without characters that could end it."""
    encoded = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Html(encoded.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
