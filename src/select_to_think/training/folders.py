"""Where a training works and where its result appears: checkpoints beside the result, the result by one rename.

While a scorer for `OUT` is trained, `OUT.training` holds the checkpoints and logs of `transformers.Trainer`. They are
private to the run and go away with it. `OUT` appears complete or not at all.

Non-goals: what is in the folders.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from psutil import pid_exists

from select_to_think.files import Json, only_writer, read_json, require_same_settings, unwritable, write_json_atomic
from select_to_think.structures import S2TError

SETTINGS = "settings.json"  # in a working folder: with what the training was begun
ANSWERS = "answers.jsonl"  # in a working folder: what is trained on, where it had to be generated


def is_leader() -> bool:
    """Whether this process owns the folders: under `torchrun` only the first does."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """How many processes train together (`torchrun`)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def working_folder(out: Path, *, resume: bool = False) -> Iterator[Path]:
    """Hold the folder beside `out` in which it is trained, for this process; it is gone when the training has ended,
    and after a failure that left no answers and no checkpoint to go on from.

    Raises:
        S2TError: `out` exists or is no name, an unfinished training lies beside it and `resume` is false, another
            process trains there, or nothing can be written.
    """
    if not out.name:
        raise S2TError(f"{out} is no name for a new folder: name another --out")
    work = out.parent / f"{out.name}.training"
    if not is_leader():
        yield work
        return
    if out.exists():
        raise S2TError(f"{out} already exists: remove it or name another --out")
    with only_writer(work):
        if any(work.iterdir()) and not (work / SETTINGS).exists():
            raise S2TError(f"{work} is no unfinished training, but in the way of one: move it or name another --out")
        try:
            if not resume and goes_on(work):
                raise S2TError(f"{work} holds an unfinished training: go on with --resume, or remove it to start again")
            yield work
        except BaseException:
            if not goes_on(work):
                shutil.rmtree(work, ignore_errors=True)
            raise
        if out.exists() or not goes_on(work):
            shutil.rmtree(work, ignore_errors=True)


def begin(work: Path, settings: Json) -> None:
    """Note with what a training was begun, or check that the one to go on with was begun with the same settings.

    Raises:
        S2TError: other settings.
    """
    if not is_leader():
        return
    note = work / SETTINGS
    if goes_on(work):
        require_same_settings(work, read_json(note, remedy=f"remove {work} to start again"), settings)
    else:
        write_json_atomic(note, settings)


def goes_on(work: Path) -> bool:
    """Whether the folder holds what a training can go on from."""
    answers = work / ANSWERS
    return (answers.exists() and answers.stat().st_size > 0) or last_checkpoint(work) is not None


def last_checkpoint(work: Path) -> str | None:
    """The newest whole checkpoint, if any: the Trainer writes its state last, so a killed save lacks it."""
    whole = [path.parent for path in work.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.partition("-")[2]))) if whole else None


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or an unwritable path into the one-line error.

    safetensors and torch report a failed write as errors of their own.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch's name for its file writer
            raise
        reason = str(error).splitlines()[0]
        raise S2TError(f"cannot write {path}: {reason}; free space there or choose another place") from error


def publish(out: Path, *writers: Callable[[Path], None]) -> None:
    """Let all `writers` fill a temporary folder, then rename it to `out`. With what was trained goes its card.

    Raises:
        S2TError: a full disk or an unwritable path; nothing is left under the final name.
    """
    begun = f".{out.name}.{platform.node()}."  # and the number of the process, which says nothing on other machines
    temporary = out.parent / f"{begun}{os.getpid()}.tmp"
    for left in out.parent.glob(".*.tmp"):
        number = re.fullmatch(re.escape(begun) + r"(\d+)\.tmp", left.name)
        if number and (left == temporary or not pid_exists(int(number[1]))):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
    with disk_errors(out):
        try:
            temporary.mkdir(parents=True)
            for write in writers:
                write(temporary)
            os.replace(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
