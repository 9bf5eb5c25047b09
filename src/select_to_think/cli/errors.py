"""Turns what the user can mend into one line and exit code 2; everything else keeps its traceback.

Non-goals: checking input. The library raises `S2TError` where it knows the remedy; here are only the errors that the
operating system and the device raise on their own.
"""

from __future__ import annotations

import errno

from typer.exceptions import TyperException

from select_to_think.structures import S2TError

USER_ERROR = 2
INTERRUPTED = 130

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
PATH_REMEDIES = {
    errno.EACCES: "you may not read or write there; choose another path or change its permissions",
    errno.EPERM: "you may not read or write there; choose another path or change its permissions",
    errno.EROFS: "that file system is read-only; choose another path",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.EISDIR: "that is a folder; name a file",
    errno.EEXIST: "a file of that name is in the way; move it or choose another path",
    errno.ENAMETOOLONG: "choose a shorter path",
}


def explain(error: BaseException) -> str | None:
    """One line with the remedy for an error that the user can mend; None for a defect of ours."""
    if isinstance(error, TyperException):
        return " ".join(error.format_message().split())
    if isinstance(error, S2TError):
        return " ".join(str(error).split())
    text = str(error)
    if getattr(error, "errno", None) in DISK_FULL or "No space left on device" in text:
        where = f" while writing {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return f"the disk is full{where}; free some space or choose another --out, then run the same command again"
    if isinstance(error, OSError) and error.errno in PATH_REMEDIES and error.filename:
        return f"{error.filename}: {error.strerror}; {PATH_REMEDIES[error.errno]}"
    if type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch"):
        return "the device is out of memory; lower --max-batch, use --dtype bfloat16 or choose another --device"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "out of memory; lower --max-batch or use smaller models"
    return None
