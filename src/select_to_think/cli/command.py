"""The frame around every sub-command: flags from configurations, `--json`, errors, Ctrl-C.

What the user can mend becomes one line and exit code 2; everything else keeps its traceback. The library raises
`S2TError` where it knows the remedy; here are only the errors that the operating system and the device raise.

Non-goals: what the commands do, checking input.
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
from collections.abc import Callable
from itertools import zip_longest
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from select_to_think.cli.options import flatten
from select_to_think.cli.output import Reply, notes, only_the_result, write_reply
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

JSON_FLAG = inspect.Parameter(
    "json",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON object on stdout, all else on stderr.")
    ],
)

Command = Callable[..., Reply]
BARE = {"--ray": "", "--allow-code-execution": "confined"}  # flags that may stand alone: what they then say


class BareFlags(TyperCommand):
    """A command whose `BARE` flags need no value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the value where none follows."""
        given = [
            f"{word}={BARE[word]}" if word in BARE and after.startswith("-") else word
            for word, after in zip_longest(args, args[1:], fillvalue="-")
        ]
        return super().parse_args(ctx, given)


def add_command(app: typer.Typer, name: str, function: Command, *, resume: str | None = None) -> None:
    """Register `function` as `s2t ... name`. `resume` tells a person who pressed Ctrl-C how to go on."""
    work, flags = flatten(function)
    parameters = [*flags, JSON_FLAG]

    def run(json: bool, **flags: Any) -> None:
        quiet_libraries(loads_slowly=bool(flags.get("slm") or flags.get("llm")))
        try:
            with only_the_result(json) as stdout:
                write_reply(work(**flags), stdout, json)
        except KeyboardInterrupt:
            notes().print(f"stopped; {resume or 'nothing was written'}", soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            end_unread()
        except Exception as error:
            refuse(error)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = inspect.getdoc(function)
    app.command(name, cls=BareFlags)(run)


def end_unread() -> NoReturn:
    """End without an error: the reader, such as `head`, has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(0) from None


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
        remedies = "lower --kv-memory-gib or --max-batch, use --dtype bfloat16, or choose another --device"
        return f"the device is out of memory; {remedies}"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "out of memory; lower --max-batch or use smaller models"
    return None


def refuse(error: Exception) -> NoReturn:
    """End with one line and exit code 2 if the user can mend the error; otherwise raise it on."""
    line = explain(error)
    if line is None:
        raise error
    print_error(line)
    raise typer.Exit(USER_ERROR) from None


def print_error(line: str) -> None:
    """One line on stderr that starts with `error:`."""
    screen = notes()
    screen.print("error:", style="bold red", end=" ")
    screen.print(line, soft_wrap=True)


def quiet_libraries(*, loads_slowly: bool) -> None:
    """Keep the messages of other libraries to errors, unless the environment asks for more.

    Their bars for downloading and loading are kept on a terminal where that may take long.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not (loads_slowly and sys.stderr.isatty()):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
