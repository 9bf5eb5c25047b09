"""Writes a collection so that a kill at any moment loses no finished trajectory and a rerun doubles none.

A folder holds `manifest.json` (settings, sealed shards with their digests and what they are about),
`shard-00000.jsonl` ... (sealed: `shard_items` trajectories each, in item order) and, while work goes on,
`journal.jsonl` (finished trajectories of shards that are not yet full, in order of finishing). Sealing writes the
shard, then the manifest, then the shorter journal, each atomically; whichever of them a kill prevents is done again
from the journal.

Non-goals: knowing how trajectories are made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from select_to_think.collect.records import MANIFEST, SCHEMA, Manifest, Trajectory
from select_to_think.evaluation.items import Item, items_note, question_key, require_same_run
from select_to_think.files import (
    Journal,
    Json,
    only_writer,
    read_record,
    write_json_atomic,
    write_jsonl_atomic,
)
from select_to_think.structures import S2TError


class CollectionWriter:
    """One collection in one folder, for one process at a time."""

    def __init__(
        self, folder: Path, items: Sequence[Item], *, shard_items: int, settings: Json, provenance: Json
    ) -> None:
        """Open or begin the collection of `items`.

        `settings` decide what the trajectories are; `provenance` of the first run is kept. Raises S2TError if the
        folder was begun with other settings or items, is held by another process or cannot be written.
        """
        self.folder = folder
        self.shards = [
            [item.id for item in items[start : start + shard_items]] for start in range(0, len(items), shard_items)
        ]
        self._question_of = {item.id: question_key(item) for item in items}
        self._shard_of = {item_id: number for number, ids in enumerate(self.shards) for item_id in ids}
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(only_writer(folder))
        try:
            about = {**settings, "items": items_note(items)}
            self._manifest = self._open_manifest(about, provenance)
            self._journal = self._stack.enter_context(Journal(folder / "journal.jsonl", Trajectory))
            sealed = {item_id for shard in self._manifest["shards"] for item_id in shard["items"]}
            self._pending = {each.id: each for each in self._journal.records if each.id not in sealed}
            self.done = sealed | self._pending.keys()
            for number in range(len(self.shards)):
                self._seal_if_full(number)
            self._finish_if_complete()
        except BaseException:
            self._stack.close()
            raise

    def _open_manifest(self, about: Json, provenance: Json) -> dict[str, Any]:
        path = self.folder / MANIFEST
        if (self.folder / "run.json").exists():
            raise S2TError(f"{self.folder} holds an evaluation; name another folder")
        begun = path.exists()
        if begun:
            manifest = dict(read_record(Manifest, path, remedy="name another folder, or delete this one"))
            begun_with = {name: manifest.get(name) for name in ("schema", *about)}
            require_same_run(self.folder, begun_with, {"schema": SCHEMA, **about})
            return manifest
        manifest = {"schema": SCHEMA, **about, "complete": False, "shards": [], "provenance": dict(provenance)}
        write_json_atomic(path, manifest)
        return manifest

    def add(self, trajectory: Trajectory) -> None:
        """Store one finished trajectory durably. Raises S2TError on a full disk; what was stored before stays."""
        self._journal.append(trajectory.to_json())
        self._pending[trajectory.id] = trajectory
        self.done.add(trajectory.id)
        self._seal_if_full(self._shard_of[trajectory.id])
        self._finish_if_complete()

    def _seal_if_full(self, number: int) -> None:
        ids = self.shards[number]
        if any(item_id not in self._pending for item_id in ids):
            return
        file = f"shard-{number:05d}.jsonl"
        digest = write_jsonl_atomic(self.folder / file, (self._pending[item_id].to_json() for item_id in ids))
        questions = [self._question_of[item_id] for item_id in ids]
        entry = {"file": file, "sha256": digest, "items": ids, "question_keys": questions}
        self._manifest["shards"] = sorted([*self._manifest["shards"], entry], key=lambda shard: str(shard["file"]))
        write_json_atomic(self.folder / MANIFEST, self._manifest)
        for item_id in ids:
            del self._pending[item_id]
        self._journal.replace(each.to_json() for each in self._pending.values())

    def _finish_if_complete(self) -> None:
        if len(self._manifest["shards"]) < len(self.shards):
            return
        if not self._manifest["complete"]:
            self._manifest["complete"] = True
            write_json_atomic(self.folder / MANIFEST, self._manifest)
        self._journal.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
