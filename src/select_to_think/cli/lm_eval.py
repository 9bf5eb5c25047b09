"""`s2t lm-eval`: lm-evaluation-harness with the model `s2t` registered; every flag goes to the harness."""

from __future__ import annotations

import sys

import typer

from select_to_think.cli.command import quiet_libraries, refuse
from select_to_think.cli.errors import INTERRUPTED, USER_ERROR
from select_to_think.structures import S2TError

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


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
    except Exception as error:
        refuse(error)


def run_harness(arguments: list[str]) -> None:
    """Register the model class, then be the harness's program. Raises S2TError if the harness is missing."""
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError:
        raise S2TError("lm-eval is missing: run `pip install 'select-to-think[lm-eval]'`") from None
    import select_to_think.evaluation.harness  # noqa: F401  (registers the model)

    before = sys.argv
    sys.argv = ["s2t lm-eval", *arguments]  # where the harness reads its flags
    try:
        cli_evaluate()
    finally:
        sys.argv = before


def register(app: typer.Typer) -> None:
    """Add `s2t lm-eval`."""
    app.command("lm-eval", context_settings=PASS_ON, add_help_option=False)(lm_eval)
