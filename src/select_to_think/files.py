"""Files that survive a kill: atomic writes, an append-only journal, one writer per folder.

Every result of the library is written here, so that a killed process or a full disk never leaves half a file under its
final name. What is read back is checked here against the dataclass that says what it holds (`parse_record`).

Non-goals: what the files mean (see `collect/records.py`, `evaluation/results.py`).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from select_to_think.structures import S2TError

Json = Mapping[str, Any]
Kind = TypeVar("Kind")


def unwritable(path: Path, error: OSError) -> S2TError:
    """The error for a path that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space there or choose another place" if full else "choose another place"
    return S2TError(f"cannot write {path}: {error.strerror or error}; {remedy}")


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raises S2TError if that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def make_room(path: Path) -> None:
    """Create the folder of a file that will be written there. Raises S2TError if it cannot be, before the work."""
    make_folder(path.parent)
    replaceable(path)
    if not os.access(path.parent, os.W_OK):
        raise S2TError(f"cannot write {path}: {path.parent} is not writable; choose another place")


def replaceable(path: Path) -> None:
    """Raise S2TError for a path that holds something else than a file: a folder, a device, a pipe."""
    if path.exists() and not path.is_file():
        raise S2TError(f"{path} is a folder or a device; name a file")


def write_text_atomic(path: Path, text: str) -> None:
    """Write a whole file in UTF-8 under a temporary name, then rename it: readers see the old or the new one whole.

    Raises S2TError if that is impossible; then the old file, if any, is untouched and nothing is left behind.
    """
    replaceable(path)
    temporary, content = path.parent / f".{path.name}.{os.getpid()}.tmp", text.encode()
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def write_json_atomic(path: Path, value: Json) -> None:
    """Write one JSON object, indented, atomically. Raises S2TError as `write_text_atomic`; ValueError on NaN."""
    write_text_atomic(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def write_jsonl_atomic(path: Path, records: Iterable[Json]) -> str:
    """Write one record per line atomically; returns the SHA-256 of the file."""
    text = "".join(json_line(record) for record in records)
    write_text_atomic(path, text)
    return hashlib.sha256(text.encode()).hexdigest()


def finite(value: Any) -> Any:
    """`value` with null for every number that JSON does not have (NaN and infinity)."""
    if isinstance(value, dict):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_line(record: Json) -> str:
    """One record as a line of JSON Lines. Raises ValueError on NaN and infinity, which JSON does not have."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def decoded(content: bytes, where: str, *, remedy: str) -> Any:
    """The JSON value in `content`: every number finite, every text writable again. Raises S2TError naming `where`."""
    from pydantic_core import from_json

    try:
        value = from_json(content, allow_inf_nan=False)
        if _MAY_OVERFLOW.search(content):
            json.dumps(value, allow_nan=False)
    except ValueError as error:
        reason = str(error).replace("line 1 column", "column") if content.strip() else "it is empty"
        raise S2TError(f"{where} is not valid JSON ({reason}); {remedy}") from error
    return value


_MAY_OVERFLOW = re.compile(rb"[eE]\+?\d{3}|\d{300}")  # 1e999 is JSON, but no finite number


@functools.cache
def _checker(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def parse_record(kind: type[Kind], content: bytes, where: str, *, remedy: str) -> Kind:
    """The JSON object in `content` as a `kind`, a dataclass: its fields, all of them, of their types, and no others.

    This is the one check of everything that is read back. Raises S2TError naming `where` and the field.
    """
    from pydantic import ValidationError

    decoded(content, where, remedy=remedy)
    content = content.replace(b'"mentor_failures":', b'"llm_failures":')  # its name in files of earlier versions
    try:
        found: Kind = _checker(cast(Any, kind)).validate_json(content, strict=True, extra="forbid")
    except ValidationError as error:
        raise S2TError(f"{where}: {_complaint(error.errors(include_url=False)[0])}; {remedy}") from error
    return found


def _complaint(error: Mapping[str, Any]) -> str:
    """What is wrong with one field."""
    place, got = ".".join(map(str, error["loc"])), repr(error["input"])
    if error["type"] in ("missing", "missing_argument"):
        return f"{place} is missing"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{place} is unknown"
    if place == "schema":
        return f"schema is {got}, this version reads {error['ctx']['expected']}"
    message = str(error["msg"]).removeprefix("Value error, ")
    what = message if error["type"] == "value_error" else f"{message}, got {got[:40]}"
    return f"{place}: {what}" if place else what


def read_record(kind: type[Kind], path: Path, *, remedy: str) -> Kind:
    """The file `path` as a `kind`, see `parse_record`."""
    return parse_record(kind, read_bytes(path, remedy=remedy), str(path), remedy=remedy)


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read one JSON object of any fields. Raises S2TError naming the file and the remedy."""
    value = decoded(read_bytes(path, remedy=remedy), str(path), remedy=remedy)
    if not isinstance(value, dict):
        raise S2TError(f"{path} does not hold a JSON object; {remedy}")
    return value


def numbered_lines(path: Path, content: bytes) -> Iterator[tuple[str, bytes]]:
    """(the words for its place, its bytes) of each line of JSON Lines."""
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    for number, line in enumerate(lines, 1):
        yield f"{path}, line {number}", line


def parse_records(kind: type[Kind], path: Path, content: bytes, *, remedy: str) -> Iterator[Kind]:
    """Each line of JSON Lines as a `kind`, see `parse_record`. Raises S2TError at the first broken line."""
    return (parse_record(kind, line, where, remedy=remedy) for where, line in numbered_lines(path, content))


def read_bytes(path: Path, *, remedy: str) -> bytes:
    """The whole file. Raises S2TError naming the file and the remedy."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise S2TError(f"cannot read {path}: {error.strerror or error}; {remedy}") from error


class Journal(Generic[Kind]):
    """An append-only JSON Lines file of finished work, one `kind` of record.

    Each record reaches the operating system in one write before `append` returns, so killing the process loses at most
    the record being written. Opening repairs a half-written last line by dropping it.
    """

    def __init__(self, path: Path, kind: type[Kind], *, alone: bool = False) -> None:
        """Open or create `path` and read its records; `alone` where no lock of a folder keeps others away.

        Raises S2TError if a line before the last is broken, or another process has it `alone`.
        """
        self.path = path
        self.records: list[Kind] = []
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            if alone:
                lock(self._file, path)
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            remedy = "delete this file to decode its items again"
            self.records = list(parse_records(kind, path, content[:whole], remedy=remedy))
            os.ftruncate(self._file, whole)
            os.lseek(self._file, 0, os.SEEK_END)
        except OSError as error:
            raise unwritable(path, error) from error

    def append(self, record: Json) -> None:
        """Add one finished record. Raises S2TError on a full disk; what was appended before stays."""
        line = memoryview(json_line(record).encode())
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            raise S2TError(
                f"cannot write {self.path}: {error.strerror or error}; free space and run the same command again, "
                "it goes on from here"
            ) from error

    def replace(self, records: Iterable[Json]) -> None:
        """Make the journal hold exactly `records`, atomically."""
        write_jsonl_atomic(self.path, records)
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND)

    def remove(self) -> None:
        """Close and delete the journal: its records stand elsewhere."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lock(handle: int, path: Path) -> None:
    """Hold the file or folder `path`, open as `handle`, until it is closed or the process ends.

    Raises S2TError, with `handle` closed, if another process holds it. Where there is no `flock` (Windows, some file
    systems) nothing is locked.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise S2TError(
            f"another process is writing to {path}; wait for it, or stop it and run this command again"
        ) from error
    except OSError:
        pass  # a file system without locks


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process (see `lock`), and clear away what killed ones left half-written."""
    make_folder(folder)
    if sys.platform == "win32":  # where a folder cannot be opened
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    lock(handle, folder)
    try:
        for stale in folder.glob(".*.tmp"):
            if not stale.is_dir():  # `publish` clears those away
                stale.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def require_same_settings(path: Path, before: Json, now: Json) -> None:
    """Raise S2TError naming what differs if work in `path` was begun with other settings than `now`."""
    old, new = flat(before), flat(json.loads(json.dumps(now)))
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if changed:
        shown = ", ".join(f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise S2TError(
            f"{path} was begun with other settings ({shown}{more}); name another folder, or use the old settings"
        )


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, with dotted names."""
    found: dict[str, Any] = {}
    for name, entry in value.items():
        found |= flat(entry, f"{prefix}{name}.") if isinstance(entry, Mapping) else {prefix + name: entry}
    return found
