"""`s2t serve` and `s2t playground`: the pair behind an OpenAI-compatible server, and its page in the browser."""

from __future__ import annotations

import webbrowser
from logging.config import dictConfig
from threading import Thread
from typing import Annotated

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
from select_to_think.serving.settings import SERVED_DECODE, SERVED_RUNTIME, AccessConfig
from select_to_think.structures import S2TError
from select_to_think.text import installing

Rows = Annotated[DecodeConfig, Only(defaults=tuple(SERVED_DECODE.items()))]
Patience = Annotated[RuntimeConfig, Only(defaults=tuple(SERVED_RUNTIME.items()))]


def serve(
    pair: PairConfig,
    decode: Rows,
    select: SelectConfig,
    mentor: MentorConfig,
    runtime: Patience,
    server: ServeConfig,
    access: AccessConfig,
) -> Reply:
    """Serve every method of the pair to OpenAI's clients until Ctrl-C; settings count where a request has none."""
    return run(pair, runtime, server, access, MethodSettings(decode, select, mentor))


def playground(
    pair: PairConfig,
    decode: Rows,
    select: SelectConfig,
    mentor: MentorConfig,
    runtime: Patience,
    server: Annotated[ServeConfig, Only(defaults=(("port", 0),))],
    access: AccessConfig,
) -> Reply:
    """Open a page in the browser that shows how each token was decided, and where another choice would have led."""
    return run(pair, runtime, server, access, MethodSettings(decode, select, mentor), opens_page=True)


def run(
    pair: PairConfig,
    runtime: RuntimeConfig,
    server: ServeConfig,
    access: AccessConfig,
    settings: MethodSettings,
    *,
    opens_page: bool = False,
) -> Reply:
    """Serve until Ctrl-C."""
    try:
        from select_to_think.serving.access import ApiKeys, is_loopback
        from select_to_think.serving.app import application
        from select_to_think.serving.catalogue import Catalogue
        from select_to_think.serving.connections import LOG_CONFIG
        from select_to_think.serving.engine import Engine
        from select_to_think.serving.readers import DistantEngine
        from select_to_think.serving.server import CAN_PART, Server, address, bind, listen, serve_apart
    except ModuleNotFoundError as error:
        raise S2TError(f"{error.name} is missing: {installing('serve')}") from error
    from select_to_think.session import Session

    keys, bound = ApiKeys.load(access.api_key_file), bind(server)
    if not keys.digests and not is_loopback(server.host):
        note(f"everybody who reaches {server.host} may use this server: name keys with --api-key-file")
    session = Session.load(pair, runtime)
    catalogue = Catalogue(session, server, settings)
    engine = Engine(session, max_rows=settings.decode.max_batch, max_queue=server.max_queue)
    where = address(bound)
    listen(bound, server)
    dictConfig(LOG_CONFIG)

    def answer(asked: DistantEngine) -> None:
        app = application(asked, catalogue, server, settings, access, keys, server.host)
        Server(app, asked, server).run([bound])

    def announce() -> None:
        note(f"serving {catalogue.name} by {server.method} at {where}/v1, and a page at {where}; Ctrl-C ends it")
        if opens_page:
            Thread(target=webbrowser.open, args=(where,), daemon=True).start()
        if CAN_PART:
            bound.close()  # the other process has it

    if CAN_PART:
        serve_apart(engine, answer, announce)
    else:
        announce()
        engine.start()
        answer(engine.distant)
    return Reply({"schema": 1, "address": where}, lambda console: None)
