"""The `s2t` program: registers the sub-commands and turns usage errors into one line.

Non-goals: work. Nothing imported here may import torch (a test sees to it).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from select_to_think import __version__
from select_to_think.cli import (
    ablate,
    advise,
    bench,
    calibrate,
    chat,
    collect,
    compare,
    demo,
    evaluate,
    export,
    generate,
    lm_eval,
    measure,
    pair,
    report,
    serve,
    train,
)
from select_to_think.cli.command import print_error
from select_to_think.cli.errors import INTERRUPTED, USER_ERROR, explain


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        typer.echo(f"s2t {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Small language models that reason with a large one's judgement: the large model selects, the small one proposes.

    Start with `s2t demo`. Every command works on the bundled pair; name your own with --slm and --llm.
    """


def build() -> typer.Typer:
    """The program with all its commands, in the order in which a newcomer meets them."""
    app = typer.Typer(name="s2t", no_args_is_help=True, rich_markup_mode="rich", context_settings=HELP)
    app.callback()(root)
    looking = (demo, generate, chat, serve, advise, measure, evaluate, compare, ablate, report, lm_eval, bench)
    for part in (*looking, calibrate, collect, train, export, pair):
        part.register(app)
    return app


def unusable(arguments: Sequence[str]) -> str | None:
    """What no command could work with: arguments that are not text, an output that is closed."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            return f"the argument {argument!r} is not valid UTF-8; write it as UTF-8 text, or rename the file"
    if sys.stdout is None:
        return "stdout is closed; send it to a file, or to /dev/null"
    return None


HELP = {"help_option_names": ["-h", "--help"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `s2t` with `arguments` (default: those of the process); returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if problem := unusable(given):
        print_error(problem)
        return USER_ERROR
    try:
        code = get_command(build()).main(args=given, prog_name="s2t", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except TyperException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "s2t"
        if line := explain(error):  # empty where typer has printed the help instead
            print_error(f"{line.rstrip('.')} (see `{where} --help`)")
        return error.exit_code
    return code if isinstance(code, int) else 0
