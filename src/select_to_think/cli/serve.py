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
from select_to_think.serving.settings import AccessConfig
from select_to_think.structures import S2TError


def serve(
    pair: PairConfig,
    decode: Annotated[DecodeConfig, Only(defaults=(("max_batch", 64),))],
    select: SelectConfig,
    mentor: MentorConfig,
    runtime: Annotated[RuntimeConfig, Only(defaults=(("max_wait_steps", 32),))],
    server: ServeConfig,
    access: AccessConfig,
) -> Reply:
    """Serve every method of the pair to OpenAI's clients until Ctrl-C; settings count where a request has none."""
    try:
        from select_to_think.serving.access import ApiKeys, guarded, is_loopback
        from select_to_think.serving.app import create_app
        from select_to_think.serving.engine import Engine
        from select_to_think.serving.metrics import Metrics
        from select_to_think.serving.server import Server, address, bind
    except ModuleNotFoundError as error:
        raise S2TError(f"{error.name} is missing: install the extra, select-to-think[serve]") from error
    from select_to_think.session import Session

    keys, metrics, bound = ApiKeys.load(access.api_key_file), Metrics(), bind(server)
    if not keys.digests and not is_loopback(server.host):
        note(f"everybody who reaches {server.host} may use this server: name keys with --api-key-file")
    session = Session.load(pair, runtime)
    engine = Engine(session, max_rows=decode.max_batch, max_queue=server.max_queue, observer=metrics)
    app = create_app(engine, server, MethodSettings(decode, select, mentor), metrics)
    where = address(bound)
    note(f"serving {app.state.catalogue.name} by {server.method} at {where}/v1; Ctrl-C ends it")
    Server(guarded(app, access, server.host, keys, metrics.visited), engine, server).run([bound])
    return Reply({"schema": 1, "address": where}, lambda console: None)


def register(app: typer.Typer) -> None:
    """Add `s2t serve`."""
    add_command(app, "serve", serve, resume="the server has ended")
