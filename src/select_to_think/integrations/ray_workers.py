"""Work over a Ray cluster: each worker is an actor that holds the models and answers the items that it is handed.

This process hands out items, takes each result as it is finished, and is the only one that writes. What a worker that
dies had not handed in is given to others, so nothing is lost and nothing stands twice, whichever process dies.

Items are handed out in shares, each half of what would be an equal share of those that are left: a worker batches its
share as one process batches all, and at the end none waits long for another.

Non-goals: starting a cluster of several machines (`ray start` does), and serving (`ray_serve.py`). No torch and no
ray at the top: the command line reads `RayConfig`.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, fields, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Literal

from select_to_think import __version__
from select_to_think.checked import Checked, option
from select_to_think.config import PairConfig, RuntimeConfig
from select_to_think.evaluation.items import Item
from select_to_think.evaluation.workers import Answer, Made, Work, Workers
from select_to_think.models.remote import is_address
from select_to_think.structures import ModelUnavailable, S2TError
from select_to_think.text import comma_separated, installing

CONNECT_S = 10.0
ANSI = re.compile(r"\x1b\[[0-9;]*m")
NOTHING = "nothing yet"
MOST_LOSSES = 3  # of workers that had the same item in their hands: then it is no accident
FILES = ("slm", "llm", "llm_tokenizer", "scorer", "trigger_head", "distill", "verifier", "calibration")


@dataclass(frozen=True)
class RayConfig(Checked):
    """The cluster that does the work, and what a worker takes of it."""

    ray: str | None = option(
        None, "Work over a Ray cluster: its address; without one, that which runs here, else one of its own."
    )
    ray_workers: int | None = option(None, "Workers, each with its own models (default: as many as fit).", low=1)
    ray_cpus: float = option(1.0, "CPU cores of a worker.", low=0.0)
    ray_gpus: float | None = option(
        None, "GPUs of a worker; at 0.5 two share one (default: 1 if the cluster has any, else 0).", low=0.0
    )
    ray_placement: Literal["spread", "pack"] = option("spread", "Workers on as many nodes as there are, or on few.")

    def __post_init__(self) -> None:
        """Check the ranges, and that nothing is said of a cluster that is not asked for."""
        super().__post_init__()
        if self.ray is None and any(getattr(self, each.name) != each.default for each in fields(self)):
            raise S2TError("--ray-workers, --ray-cpus, --ray-gpus and --ray-placement go with --ray: add it")


class Holder:
    """The actor: the models in a process of the cluster, loaded when they are first asked for."""

    def __init__(self, pair: PairConfig, runtime: RuntimeConfig, version: str) -> None:
        self.pair, self.runtime, self.version = pair, runtime, version
        self.session: Any = None

    def loaded(self) -> Any:
        """The session. Raises S2TError where another version of this library is installed."""
        if self.version != __version__:
            raise S2TError(f"a worker has select-to-think {__version__}, not {self.version}: install the same on all")
        if self.session is None:
            from select_to_think.session import Session

            self.session = Session.load(self.pair, self.runtime)
        return self.session

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """The answer to a question about the session."""
        with plain_errors():
            return question(self.loaded())

    def work(self, work: Work[Any], items: Sequence[Item]) -> Iterator[Any]:
        """What is made of the items, one by one."""
        with plain_errors():
            yield from work(self.loaded(), items)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors of the user as a class that travels between processes."""
    try:
        yield
    except S2TError as error:
        raise (ModelUnavailable if type(error) is ModelUnavailable else S2TError)(str(error)) from None


@dataclass(eq=False)
class Slot:
    """The place of a worker: who holds it now, and what it has in its hands."""

    actor: Any = None
    pair: PairConfig = PairConfig()
    coming: Any = None  # until it is there: where the cluster has no room for it yet, that may take long
    call: Any = None  # the generator of its results
    left: dict[str, Item] = field(default_factory=dict)  # handed out, and not handed in


class RayWorkers(Workers):
    """The workers of one command."""

    def __init__(self, config: RayConfig, pair: PairConfig, runtime: RuntimeConfig, *, rows: int) -> None:
        """Start them on the cluster that this process is connected to; `rows`: sequences that one decodes at once.

        Raises S2TError if no node has room for one.
        """
        import ray

        self.ray, self.runtime, self.rows, self.pairs = ray, runtime, rows, pairs_of(pair)
        gpus = config.ray_gpus
        if gpus is None:
            gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0))
        strategy = "SPREAD" if config.ray_placement == "spread" else "DEFAULT"
        needs = {"num_cpus": config.ray_cpus, "num_gpus": gpus}
        self.kind = ray.remote(Holder).options(**needs, scheduling_strategy=strategy)
        count = config.ray_workers or room(ray.nodes(), {"CPU": config.ray_cpus, "GPU": gpus})
        if not count:
            raise S2TError(
                f"no node of the cluster has {config.ray_cpus:g} CPU cores and {gpus:g} GPUs for a worker: lower "
                "--ray-cpus or --ray-gpus, or give --ray-workers where the cluster grows by itself"
            )
        self.started = 0
        self.slots = [Slot() for _ in range(count)]
        for slot in self.slots:
            self.start(slot)

    def start(self, slot: Slot) -> None:
        """Let a new worker come; the next server of a fleet is its LLM."""
        slot.pair, slot.call, slot.left = self.pairs[self.started % len(self.pairs)], None, {}
        slot.actor = self.kind.remote(slot.pair, self.runtime, __version__)
        slot.coming = slot.actor.__ray_ready__.remote()
        self.started += 1

    def ask(self, question: Callable[[Any], Answer]) -> Answer:
        self.free()
        slot, reason = self.slots[0], ""
        for _ in range(MOST_LOSSES):
            try:
                answer: Answer = self.value(slot, partial(slot.actor.ask.remote, question))
                return answer
            except Lost as lost:
                reason = str(lost)
                self.replace(slot)
        raise S2TError(f"{MOST_LOSSES} workers were lost before they had the models, the last one thus: {reason}")

    def free(self) -> None:
        """Let no worker go on with what a reader left in the middle."""
        for slot in self.slots:
            if slot.call is not None:
                self.replace(slot)

    def spread(self, work: Work[Made], items: Sequence[Item]) -> Iterator[Made]:
        waiting, losses = deque(items), Counter[str]()
        self.free()
        while waiting or any(slot.call for slot in self.slots):
            self.hand_out(work, waiting)
            slot = self.next_news()
            try:
                if slot.call is None:
                    self.value(slot, partial(getattr, slot, "coming"))
                    slot.coming = None
                    continue
                made: Made = self.value(slot, partial(next, slot.call))
            except StopIteration:
                assert not slot.left, f"nothing was made of {list(slot.left)}"
                slot.call = None
            except Lost as lost:
                self.count(losses, slot, str(lost))
                waiting.extendleft(reversed(slot.left.values()))
                self.replace(slot)
            else:
                del slot.left[made.id]
                yield made

    def next_news(self) -> Slot:
        """Wait until a worker has made something, or is there."""
        sources = {id(source): slot for slot in self.slots if (source := slot.call or slot.coming)}
        (ready,), _ = self.ray.wait([slot.call or slot.coming for slot in sources.values()])
        return sources[id(ready)]

    def hand_out(self, work: Work[Made], waiting: deque[Item]) -> None:
        """Give a share of the items to each worker that is there and has none."""
        for slot in self.slots:
            if slot.call is slot.coming is None and waiting:
                share = [waiting.popleft() for _ in range(share_of(len(waiting), len(self.slots), self.rows))]
                slot.left = {item.id: item for item in share}
                slot.call = slot.actor.work.options(num_returns="streaming").remote(work, share)

    def count(self, losses: Counter[str], slot: Slot, reason: str) -> None:
        """Count a loss. Raises S2TError if too many workers were lost over an item that this one had."""
        had = list(slot.left) or [NOTHING]
        losses.update(had)
        worst = max(had, key=losses.__getitem__)
        if losses[worst] >= MOST_LOSSES * (1 if slot.left else len(self.slots)):
            raise S2TError(
                f"{losses[worst]} workers were lost while they had {worst!r}, the last one thus: {reason}; what is "
                "finished is kept: lower --max-batch if memory was short, and run the same command again"
            )

    def replace(self, slot: Slot) -> None:
        """Put a new worker into the place of a lost one, which may still live behind a broken network."""
        self.ray.kill(slot.actor)
        self.start(slot)

    def value(self, slot: Slot, reference: Callable[[], Any]) -> Any:
        """What a worker answered; its errors are raised here.

        Raises Lost for what another worker may do better.
        """
        from ray.exceptions import RayError, RayTaskError

        try:
            return self.ray.get(reference())
        except RayTaskError as error:
            cause = error.cause
            others = [pair for pair in self.pairs if pair is not slot.pair]
            if isinstance(cause, ModelUnavailable) and others:
                self.pairs = others
                raise Lost(str(cause)) from None
            if isinstance(cause, S2TError):
                raise cause from None
            raise
        except RayError as error:
            raise Lost(summary(error)) from error


class Lost(Exception):
    """A worker, its node or the way to it is gone."""


def summary(error: Exception) -> str:
    """What a person needs of the many lines in which Ray tells of a loss."""
    text = ANSI.sub("", str(error)).strip()
    _, _, detail = text.partition("Worker exit detail: ")
    return " ".join((detail or text.splitlines()[-1]).split())[:200]


def pairs_of(pair: PairConfig) -> list[PairConfig]:
    """A pair for each server that has the LLM, or the one pair; files by paths that do not depend on a folder."""
    given = {name: getattr(pair, name) for name in FILES}
    there: dict[str, Any] = {
        name: str(Path(path).absolute()) for name, path in given.items() if path and Path(path).exists()
    }
    pair = replace(pair, **there)
    servers = comma_separated(pair.llm or "") if is_address(pair.llm) else [pair.llm]
    return [replace(pair, llm=server) for server in servers]


def room(nodes: Sequence[dict[str, Any]], needs: dict[str, float]) -> int:
    """Workers for which the living nodes have the resources."""
    wanted = {name: amount for name, amount in needs.items() if amount} or {"CPU": 1.0}
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return sum(min(int(has.get(name, 0.0) / amount + 1e-6) for name, amount in wanted.items()) for has in alive)


def share_of(left: int, workers: int, rows: int) -> int:
    """How many of the items that are left a worker takes: half of an equal share, but a full batch if there is one."""
    return max(ceil(left / (2 * workers)), min(rows, ceil(left / workers)))


def reachable(address: str) -> str:
    """The address of a cluster, if there is one: Ray itself would look for it without an end.

    Raises S2TError where nobody listens at HOST:PORT.
    """
    if address.startswith("ray://"):
        raise S2TError(f"{address} is for Ray clients: run this on a node of the cluster, with --ray HOST:6379")
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise no_cluster(address, error) from error
    elif address not in ("", "auto", "local"):
        raise S2TError(f"{address!r} is no address of a cluster: write --ray HOST:PORT, or --ray alone")
    return address


def no_cluster(address: str, error: Exception) -> S2TError:
    """The error for an address at which no cluster is."""
    reason = " ".join(str(error).split())[:200]
    return S2TError(f"no Ray cluster at {address} ({reason}): start one with `ray start --head`, or correct --ray")


@contextmanager
def connected(config: RayConfig, pair: PairConfig, runtime: RuntimeConfig, *, rows: int) -> Iterator[RayWorkers]:
    """Workers on the cluster that `config` names, until the block ends, however it ends.

    Raises:
        S2TError: Ray is not installed, there is no cluster at the address, or it has no room.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise S2TError(f"{error.name} is missing: {installing('ray')}") from error
    address = reachable(config.ray or os.environ.get("RAY_ADDRESS", ""))
    try:
        ray.init(address=address or None, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # of whatever kind: Ray has many, down to Exception itself
        raise no_cluster(address or "this machine", error) from error
    try:
        with redirect_stdout(sys.stderr):  # where Ray tells of losses, among other things
            yield RayWorkers(config, pair, runtime, rows=rows)
    finally:
        ray.shutdown()
