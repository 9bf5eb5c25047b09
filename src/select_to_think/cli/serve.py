"""`s2t serve`: the pair behind an OpenAI-compatible server."""

from __future__ import annotations

from typing import Annotated

import typer

from select_to_think.cli.command import add_command
from select_to_think.cli.options import Only
from select_to_think.cli.output import Reply, note
from select_to_think.config import (
    DecodeConfig,
    MentorConfig,
    MethodSettings,
    PairConfig,
    RuntimeConfig,
    SelectConfig,
    ServeConfig,
)
from select_to_think.structures import S2TError


def serve(
    pair: PairConfig,
    decode: Annotated[DecodeConfig, Only(defaults=(("max_batch", 64),))],
    select: SelectConfig,
    mentor: MentorConfig,
    runtime: Annotated[RuntimeConfig, Only(defaults=(("max_wait_steps", 32),))],
    server: ServeConfig,
) -> Reply:
    """Serve every method of the pair to OpenAI's clients until Ctrl-C; settings count where a request has none."""
    try:
        from select_to_think.serving.app import create_app
        from select_to_think.serving.engine import Engine
        from select_to_think.serving.server import Server, address, bind
    except ModuleNotFoundError as error:
        raise S2TError(f"{error.name} is missing: install the extra, select-to-think[serve]") from error
    from select_to_think.session import Session

    bound = bind(server)
    engine = Engine(Session.load(pair, runtime), max_rows=decode.max_batch, max_queue=server.max_queue)
    app = create_app(engine, server, MethodSettings(decode, select, mentor))
    where = address(bound)
    note(f"serving {app.state.catalogue.name} by {server.method} at {where}/v1; Ctrl-C ends it")
    Server(app, engine, server).run([bound])
    return Reply({"schema": 1, "address": where}, lambda console: None)


def register(app: typer.Typer) -> None:
    """Add `s2t serve`."""
    add_command(app, "serve", serve, resume="the server has ended")
