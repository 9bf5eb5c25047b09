"""`--ray`: who holds the models while a command works, this process or a cluster.

Non-goals: the cluster (`integrations/ray_workers.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from select_to_think.cli.output import note
from select_to_think.config import DecodeConfig, PairConfig, RuntimeConfig
from select_to_think.integrations.ray_workers import RayConfig, connected

if TYPE_CHECKING:
    from select_to_think.evaluation.workers import Workers
    from select_to_think.session import Session


class RayCommand(TyperCommand):
    """A command whose --ray needs no value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the empty address where none follows."""
        following = [*args[1:], "-"]
        given = [
            f"{word}=" if word == "--ray" and after.startswith("-") else word
            for word, after in zip(args, following, strict=True)
        ]
        return super().parse_args(ctx, given)


@contextmanager
def models(
    ray: RayConfig, pair: PairConfig, decode: DecodeConfig, runtime: RuntimeConfig = RuntimeConfig()
) -> Iterator[Session | Workers]:
    """A session on the pair, or workers on the cluster that hold it."""
    if ray.ray is None:
        from select_to_think.session import Session

        yield Session.load(pair, runtime)
        return
    with connected(ray, pair, runtime, rows=decode.max_batch) as workers:
        note(f"{len(workers.slots)} workers of {len(workers.ray.nodes())} nodes do the work")
        yield workers
