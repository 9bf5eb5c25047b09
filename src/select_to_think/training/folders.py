"""Where a training works and where its result appears: checkpoints beside the result, the result by one rename.

While a scorer for `OUT` is trained, `OUT.training` holds the checkpoints and logs of `transformers.Trainer`. They are
private to the run and go away with it. `OUT` appears complete or not at all.

Non-goals: what is in the folders.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from select_to_think.files import Json, make_folder, read_json, require_same_settings, unwritable, write_json_atomic
from select_to_think.structures import S2TError

ANSWERS = "answers.jsonl"  # in a working folder: what is trained on, where it had to be generated


def is_leader() -> bool:
    """Whether this process owns the folders: under `torchrun` only the first does."""
    return os.environ.get("RANK", "0") == "0"


def working_folder(out: Path, *, resume: bool) -> Path:
    """Make sure that `out` is free and writable, before hours are spent; names the folder of the checkpoints.

    Raises:
        S2TError: `out` exists, an unfinished training lies beside it and `resume` is false, or nothing can be written.
    """
    work = out.with_name(out.name + ".training")
    if not is_leader():
        return work
    if out.exists():
        raise S2TError(f"{out} already exists: remove it or name another --out")
    if work.exists() and not resume:
        raise S2TError(f"{work} holds an unfinished training: go on with --resume, or remove it to start again")
    existing = next(parent for parent in work.parents if parent.exists())
    if not os.access(existing, os.W_OK):
        raise S2TError(f"{existing} is not writable: name another --out")
    return work


def begin(work: Path, settings: Json) -> None:
    """Make the working folder, or check that the training in it was begun with the same settings.

    Raises:
        S2TError: other settings, or an unwritable path.
    """
    if not is_leader():
        return
    make_folder(work)
    note = work / "settings.json"
    if note.exists():
        require_same_settings(work, read_json(note, remedy=f"remove {work} to start again"), settings)
    else:
        write_json_atomic(note, settings)


def discard(work: Path) -> None:
    """Remove the working folder of a training that is done, or that has nothing to go on from."""
    if is_leader():
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def resumable(work: Path) -> Iterator[None]:
    """At the end of the block the working folder is gone unless it holds answers or a checkpoint to go on from."""
    try:
        yield
    finally:
        answers = work / ANSWERS
        holds_answers = answers.exists() and answers.stat().st_size > 0
        if is_leader() and not holds_answers and last_checkpoint(work) is None:
            discard(work)


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


def publish(out: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder, then rename it to `out`.

    Raises:
        S2TError: a full disk or an unwritable path; nothing is left under the final name.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with disk_errors(out):
        try:
            temporary.mkdir(parents=True)
            write(temporary)
            os.replace(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
