"""The `s2t` program: registers the sub-commands and turns usage errors into one line.

Non-goals: work. Nothing imported here may import torch (a test sees to it).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
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
from select_to_think.cli.command import INTERRUPTED, USER_ERROR, Command, add_command, explain, print_error

HELP = {"help_option_names": ["-h", "--help"]}
GROUPS = {
    "bench": "Time the fast paths against the plain ones.",
    "train": "Train a scorer, a learned trigger, the distillation baseline or a verifier.",
    "pair": "The bundled pair: look at it.",
}
COMMANDS: Mapping[str, Command] = {
    "demo": demo.demo,
    "generate": generate.generate,
    "chat": chat.chat,
    "playground": serve.playground,
    "serve": serve.serve,
    "advise": advise.advise,
    "measure": measure.measure,
    "eval": evaluate.evaluate,
    "merge": evaluate.merge,
    "compare": compare.compare,
    "ablate": ablate.ablate,
    "report": report.report,
    "bench decode": bench.decode,
    "bench train": bench.train,
    "bench serve": bench.serve,
    "bench remote": bench.remote,
    "calibrate": calibrate.calibrate,
    "collect": collect.collect,
    "train scorer": train.scorer,
    "train trigger": train.trigger,
    "train distill": train.distill,
    "train verifier": train.verifier,
    "train push": train.push,
    "export": export.export,
    "pair info": pair.info,
}
# How a person goes on who pressed Ctrl-C.
RESUMES = {
    **dict.fromkeys(("demo", "advise", "eval", "ablate", "collect"), "run the same command again to go on from here"),
    **dict.fromkeys(
        ("train scorer", "train distill", "train verifier"),
        "add --resume to the same command to go on from the last checkpoint",
    ),
    **dict.fromkeys(("playground", "serve"), "the server has ended"),
}


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
    groups = {name: typer.Typer(no_args_is_help=True, help=help) for name, help in GROUPS.items()}
    for name, group in groups.items():
        app.add_typer(group, name=name)
    for name, function in COMMANDS.items():
        where, _, command = name.rpartition(" ")
        add_command(groups.get(where, app), command, function, resume=RESUMES.get(name))
    app.command("lm-eval", context_settings=lm_eval.PASS_ON, add_help_option=False)(lm_eval.lm_eval)
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
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        return 0  # nobody reads the help on, which rich takes for an error
    except OSError as error:  # of what typer does by itself
        if error.filename is None:
            raise
        print_error(f"{error.filename}: {error.strerror}; take --show-completion, and write where you may")
        return USER_ERROR
    except TyperException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "s2t"
        if line := explain(error):  # empty where typer has printed the help instead
            print_error(f"{line.rstrip('.')} (see `{where} --help`)")
        return error.exit_code
    return code if isinstance(code, int) else 0
