"""`s2t lm-eval`: lm-evaluation-harness with the model `s2t` registered; every flag goes to the harness.

Non-goals: checking the flags. The harness does; only its tracebacks for what the user can mend become one line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from traceback import walk_tb

import typer

from select_to_think.cli.command import INTERRUPTED, USER_ERROR, end_unread, explain, quiet_libraries, refuse
from select_to_think.structures import S2TError
from select_to_think.text import installing

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
DEFECTS = (TypeError, AttributeError, IndexError, NameError, AssertionError)  # of a program, not of what it was given
ASKING = "lm_eval.evaluator.evaluate"  # everything before it reads flags, finds tasks and makes the model
UNKNOWN_TASKS = "Tasks not found: "


def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness on the model `s2t`: all flags are the harness's own (extra `lm-eval`).

    For example: s2t lm-eval --model s2t --model_args pair=demo,method=s2t-local --tasks ... --apply_chat_template
    """
    quiet_libraries(loads_slowly=False)
    try:
        run_harness(context.args or ["--help"])
    except SystemExit as end:
        raise typer.Exit(end.code if isinstance(end.code, int) else USER_ERROR if end.code else 0) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        end_unread()
    except Exception as error:
        refuse(error if explain(error) else in_one_line(error))


def run_harness(arguments: list[str]) -> None:
    """Register the model class, then be the harness's program. Raises S2TError if the harness is missing."""
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError:
        raise S2TError(f"lm-eval is missing: {installing('lm-eval')}") from None
    import select_to_think.evaluation.harness  # noqa: F401  (registers the model)

    before = sys.argv
    sys.argv = ["s2t lm-eval", *arguments]  # where the harness reads its flags
    try:
        cli_evaluate()
    finally:
        sys.argv = before


def in_one_line(error: Exception) -> Exception:
    """What the harness refuses before it asks the model, as an S2TError; any other error as it is.

    An error that passed through our code, or that came up while the model was asked or its answers were counted, is
    not the harness's refusal and keeps its traceback.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    passed = {f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}" for frame in frames}
    ours = any(name.startswith("select_to_think.") and not name.startswith(f"{__name__}.") for name in passed)
    if ours or ASKING in passed or isinstance(error, DEFECTS):
        return error
    logging.getLogger("lm_eval").debug("where the harness refused:", exc_info=error)
    said = str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__
    if said.startswith(UNKNOWN_TASKS):
        managers = (frame.f_locals.get("task_manager") for frame in frames)  # making another one takes seconds
        known = next((manager.all_tasks for manager in managers if manager is not None), ())
        remedy = other_tasks(said.removeprefix(UNKNOWN_TASKS).split(", "), known)
    else:
        remedy = "`s2t lm-eval run --help` tells the flags, LMEVAL_LOG_LEVEL=DEBUG where this came up"
    return S2TError(f"lm-eval: {said.rstrip('.')}; {remedy}")


def other_tasks(missing: Iterable[str], known: Iterable[str]) -> str:
    """How to go on where the harness does not know the tasks `missing`."""
    names = list(known)
    near = [found for name in missing for found in get_close_matches(name, names, n=1, cutoff=0.8)]
    guess = f"did you mean {', '.join(map(repr, near))}? " if near else ""
    return (
        f"{guess}`s2t lm-eval ls tasks` lists its tasks, --include_path FOLDER adds yours, a name with .yaml must be a "
        "file"
    )
