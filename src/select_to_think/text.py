"""What people type and read: lists, names that are not known, and characters that a terminal would obey.

Non-goals: what models write (`models/detokenizer.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from select_to_think.structures import S2TError


def comma_separated(text: str) -> list[str]:
    """The entries of a list that a person typed, without blanks around them; empty ones do not count."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def installing(extra: str) -> str:
    """How an extra is installed; the package is on no index."""
    return f"in a checkout, pip install -c constraints.txt '.[{extra}]'"


# What a terminal obeys or cannot show: control characters, changes of direction, halves of surrogate pairs.
_UNSHOWABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """A text with what a terminal would obey written as JSON writes it (`\\u001b`); tabs and line breaks stay."""
    return _UNSHOWABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> S2TError:
    """The error for a `kind` of thing that is called by a `name` outside `known`; suggests the nearest one."""
    return S2TError(f"unknown {kind} {name!r}; {suggestion(name, known)}")


def known_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The name of a `kind` of thing. Raises S2TError with the nearest one if it is none of `known`."""
    names = list(known)
    if name not in names:
        raise unknown_name(kind, name, names)
    return name


def known_names(kind: str, text: str, known: Iterable[str]) -> list[str]:
    """The names of a comma-separated list, each once. Raises S2TError for one that is none of `known`."""
    names = list(known)
    return [known_name(kind, name, names) for name in dict.fromkeys(comma_separated(text))]


def suggestion(name: str, known: Iterable[str]) -> str:
    """What to say of a `name` outside `known`: the nearest of them, or all."""
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"choose from: {', '.join(names)}"
