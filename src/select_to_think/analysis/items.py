"""Which items go into the report, and in what form its item browser gets them.

The page shows a part of a large evaluation: items are taken in turn from every domain and, for every method, from those
that it fixed and those that it broke against the baseline, until the limits are reached. It is a selection for reading,
not a sample for counting; the page says so.

Non-goals: HTML, and the numbers of the tables (they cover every item).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from select_to_think.analysis.runs import Run
from select_to_think.evaluation.results import ItemRecord

MAX_ITEMS = 300
MAX_BYTES = 4_000_000
MAX_CHARACTERS = 8_000  # of a question or an answer
MAX_STEPS = 200  # triggered steps of one answer
MAX_CANDIDATES = 16
LIKED = ("s2t-local", "s2t")  # whose answer the worked example shows, if it can
EXAMPLE_CHARACTERS = 300

Part = tuple[str, str, int]  # names of a run and a method, and a seed
Key = tuple[str, str]  # id and question: two runs may use one id for different items


@dataclass(frozen=True)
class Selection:
    """What the page embeds: `payload` for the script, `chosen` of `total` items."""

    payload: dict[str, Any]
    chosen: int
    total: int


def select(runs: Sequence[Run], *, max_items: int = MAX_ITEMS, max_bytes: int = MAX_BYTES) -> Selection:
    """Choose items and encode their records of every run, method and seed."""
    entries = _entries(runs)
    by_key = _by_key(runs)
    chosen: dict[Key, dict[str, Any]] = {}
    size = 0
    for key in _in_turn(runs):
        if key in chosen:
            continue
        item = _item(key, by_key[key], entries)
        size += len(json.dumps(item))
        if chosen and (size > max_bytes or len(chosen) >= max_items):
            break
        chosen[key] = item
    items = [chosen[key] for key in by_key if key in chosen]
    payload = {
        "entries": entries,
        "domains": list(dict.fromkeys(item["domain"] for item in items)),
        "items": items,
        "example": example(runs, items, entries),
    }
    return Selection(payload, len(items), len(by_key))


def _parts(runs: Sequence[Run]) -> Iterator[tuple[Run, str, int]]:
    """Every (run, method, seed) that has records."""
    for run in runs:
        for method in run.methods:
            yield from ((run, method, seed) for seed in run.records.get(method, ()))


def _entries(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What can be chosen in the browser: a method of a run, with one seed. `against`: the entry of its baseline."""
    places: dict[tuple[str, str, int | None], int] = {
        (run.name, method, seed): place for place, (run, method, seed) in enumerate(_parts(runs))
    }
    return [
        {
            "run": run.name,
            "method": method,
            "seed": seed,
            "name": method if len(run.records[method]) == 1 else f"{method}, seed {seed}",
            "baseline": run.baseline,
            "against": places.get((run.name, run.baseline, run.seed_of(run.baseline, seed))),
            "changes": run.changes(method, seed),
        }
        for run, method, seed in _parts(runs)
    ]


def _by_key(runs: Sequence[Run]) -> dict[Key, dict[Part, ItemRecord]]:
    """Records by item and then by run, method and seed, in file order."""
    found: dict[Key, dict[Part, ItemRecord]] = {}
    for run, method, seed in _parts(runs):
        for record in run.records[method][seed].values():
            found.setdefault(_key(record), {})[run.name, method, seed] = record
    return found


def _key(record: ItemRecord) -> Key:
    return record.id, record.question


def _in_turn(runs: Sequence[Run]) -> Iterator[Key]:
    """Every item at least once: round robin over domains, and over what each method fixed or broke."""
    queues: dict[tuple[Any, ...], list[Key]] = {}
    for run, method, seed in _parts(runs):
        for record in run.records[method][seed].values():
            queues.setdefault(("domain", record.domain), []).append(_key(record))
            change = run.change(method, record.id, seed)
            if change:
                queues.setdefault((run.name, method, seed, change), []).append(_key(record))
    for heads in zip_longest(*map(dict.fromkeys, queues.values())):
        yield from (key for key in heads if key is not None)


def _item(key: Key, records: dict[Part, ItemRecord], entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = next(iter(records.values()))
    answers = {}
    for index, entry in enumerate(entries):
        record = records.get((entry["run"], entry["method"], entry["seed"]))
        if record is not None:
            answers[str(index)] = encode(record)
    return {
        "id": key[0],
        "domain": first.domain,
        "subject": first.subject,
        "question": shortened(key[1]),
        "gold": first.answer,
        "answers": answers,
    }


def shortened(question: str) -> str:
    """Its beginning and its end, where a long one asks."""
    half, more = MAX_CHARACTERS // 2, len(question) - MAX_CHARACTERS
    return question if more <= 0 else f"{question[:half]} [… {more:,} characters …] {question[-half:]}"


def encode(record: ItemRecord) -> dict[str, Any]:
    """One record for the page: long texts cut (`cut` = characters left out), log-probabilities rounded."""
    text = record.text[:MAX_CHARACTERS]
    return {
        "text": text,
        "cut": len(record.text) - len(text),
        "extracted": record.extracted,
        "right": record.right,
        "rule": record.rule,
        "finish": record.finish_reason,
        "tokens": record.tokens,
        "fired": record.fired,
        "flips": record.flips,
        "votes": record.votes,
        "steps": [_step(step) for step in record.steps[:MAX_STEPS]],
    }


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    """Candidates as [text, log p_SLM, score, roles]; roles: g = greedy, c = chosen, l = the LLM's top-1."""
    asked = (("g", step["greedy"]), ("c", step["token"]), ("l", step["llm_top"]))
    ids = {candidate["id"] for candidate in step["candidates"]}
    return {
        **{name: step[name] for name in ("index", "start", "end", "text", "chooser", "flip")},
        "statistic": _rounded(step["statistic"]),
        "outside": "".join(role for role, token in asked if token is not None and token not in ids),
        "candidates": [
            [
                candidate["text"],
                _rounded(candidate["logprob"]),
                _rounded(candidate["score"]),
                "".join(role for role, token in asked if token == candidate["id"]),
            ]
            for candidate in step["candidates"][:MAX_CANDIDATES]
        ],
    }


def _rounded(value: float | None) -> float | None:
    """Four significant digits."""
    return None if value is None else float(f"{value:.4g}")


def example(
    runs: Sequence[Run], items: Sequence[dict[str, Any]], entries: Sequence[dict[str, Any]]
) -> dict[str, int] | None:
    """The worked example as {"item", "entry"}: a short answer that a flip fixed, by s2t-local if there is one.

    None if no embedded answer has a triggered step.
    """
    by_name = {run.name: run for run in runs}
    ranked = []
    for number, item in enumerate(items):
        for index, answer in item["answers"].items():
            if not answer["steps"]:
                continue
            entry = entries[int(index)]
            change = by_name[entry["run"]].change(entry["method"], item["id"], entry["seed"])
            fixed = answer["flips"] and change == "fixed"
            liking = LIKED.index(entry["method"]) if entry["method"] in LIKED else len(LIKED)
            ranked.append((not fixed, liking, abs(len(answer["text"]) - EXAMPLE_CHARACTERS), number, int(index)))
    if not ranked:
        return None
    *_, number, index = min(ranked)
    return {"item": number, "entry": index}
