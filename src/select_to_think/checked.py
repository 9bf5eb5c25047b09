"""Configurations that check themselves when they are made: kind and range of every field, written beside its default.

Non-goals: the settings (`config.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from select_to_think.presets import preset_among
from select_to_think.structures import S2TError
from select_to_think.text import unknown_name

LARGEST = 2**31 - 1  # of any setting: what every library below takes


def option(default: Any, help: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with its help text and its allowed range (inclusive)."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@cache
def value_types(cls: type[Any]) -> dict[str, tuple[Any, ...]]:
    """By field of a configuration, what its value may be: classes (None if it may be missing), or names."""
    found = {}
    for name, hint in get_type_hints(cls).items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        found[name] = tuple(each for part in parts for each in (get_args(part) or (part,)))
    return found


class Checked:
    """Checks kind and range of every field when the configuration is made; raises `S2TError`."""

    @classmethod
    def preset(cls, name: str, **settings: Any) -> Self:
        """This configuration with the values of a preset, and with `settings` where they differ.

        Raises:
            S2TError: an unknown preset, or one that has nothing to say here.
        """
        known = cls.__dataclass_fields__  # type: ignore[attr-defined]
        return cls(**{**preset_among(name, known, f"of {cls.__name__}"), **settings})

    def __post_init__(self) -> None:
        """Compare each field with its type, and with the bounds written beside its default."""
        cls: Any = type(self)
        for name, spec in cls.__dataclass_fields__.items():
            value, allowed = getattr(self, name), value_types(cls)[name]
            if value is None and NoneType in allowed:
                continue
            names = [each for each in allowed if isinstance(each, str)]
            if names and value not in names:
                raise unknown_name(name.replace("_", " "), str(value), names)
            if int in allowed or float in allowed:
                check_number(name, value, int in allowed, spec.metadata["low"], spec.metadata["high"])
            elif not names and not isinstance(value, (str, Path) if allowed[0] in (str, Path) else allowed):
                raise S2TError(f"{name} must be of type {allowed[0].__name__}, got {value!r}")


def configurations(
    kinds: Iterable[Any], settings: Mapping[str, Any], defaults: Mapping[str, Any], without: Collection[str] = ()
) -> dict[type[Any], Any]:
    """Configurations by their class, from settings by name as a file or another program gives them: texts are read.

    `preset` stands for those of its values that are among them. `defaults` take the place of the classes' own; the
    names in `without` may not be set.

    Raises:
        S2TError: a name that none of them has, or a value that it does not take.
    """
    from pydantic import TypeAdapter, ValidationError

    names = {kind: value_types(kind) for kind in kinds}
    known = [name for own in names.values() for name in own if name not in without]
    for name in settings:
        if name not in (*known, "preset"):
            raise unknown_name("setting", name, ["preset", *known])
    preset = settings.get("preset")
    published = {} if preset is None else preset_among(str(preset), known, "here")
    found, given = {}, {**defaults, **published, **settings}
    for kind, fields in names.items():
        own = {name: given[name] for name in fields if name in given}
        try:
            found[kind] = TypeAdapter(kind).validate_python(own)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise S2TError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from error
    return found


def check_number(name: str, value: Any, whole: bool, low: float | None, high: float | None) -> None:
    """Raise S2TError for what is no number, not whole where it must be, not finite, or out of its range."""
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise S2TError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
    given, most = float(value), LARGEST if high is None else high
    if not (-LARGEST if low is None else low) <= given <= most:  # NaN compares as false
        bounds = f"between {low} and {most}" if high is not None or given > most else f"at least {low}"
        raise S2TError(f"{name} must be {bounds}, got {value}")
