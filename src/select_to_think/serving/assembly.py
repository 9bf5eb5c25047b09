"""A server put together, for whoever listens: the engine with its metrics, and the application with all its layers.

Non-goals: listening (`server.py`, and other people's servers).
"""

from __future__ import annotations

from starlette.types import ASGIApp

from select_to_think.config import MethodSettings, ServeConfig
from select_to_think.serving.access import ApiKeys, guarded
from select_to_think.serving.app import create_app
from select_to_think.serving.catalogue import Catalogue
from select_to_think.serving.engine import Engine
from select_to_think.serving.metrics import Metrics, Visits
from select_to_think.serving.readers import ServingEngine
from select_to_think.serving.settings import AccessConfig
from select_to_think.session import Session


def metered_engine(session: Session, *, max_rows: int, max_queue: int) -> Engine:
    """An engine that counts what it does; its catalogue was made before, so that all its models are there."""
    metrics = Metrics()
    engine = Engine(session, max_rows=max_rows, max_queue=max_queue, observer=metrics)
    metrics.watch(engine)
    return engine


def application(
    engine: ServingEngine,
    catalogue: Catalogue,
    serve: ServeConfig,
    settings: MethodSettings,
    access: AccessConfig,
    keys: ApiKeys,
    host: str,
) -> ASGIApp:
    """The application over an engine, with keys, limits and metrics; `host` is where it listens."""
    visits = Visits(engine)
    app = create_app(engine, catalogue, serve, settings, visits)
    return guarded(app, access, host, keys, visits.visited)
