"""Questions with their answers: from the bundled pair or from a JSON Lines file, checked and never skipped in silence.

Non-goals: grading (`grading/`), prompts (`models/prompting.py`) and known benchmarks (`benchmarks/`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import unicodedata
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from select_to_think.evaluation.grading import grade
from select_to_think.files import Json, decoded, numbered_lines, read_bytes, require_same_settings
from select_to_think.structures import S2TError
from select_to_think.text import known_name

AnswerType = Literal["text", "number", "math", "choice", "bool", "code"]
TEST = "test"
CORRECT = "correct or remove the line"
GOLD = {"number": "a number alone", "choice": "the letter of a choice, A being the first", "bool": "yes or no"}


@dataclass(frozen=True, slots=True)
class Item:
    """One question and what is needed to grade its answer."""

    id: str
    question: str
    answer: str
    domain: str = "all"
    split: str | None = None
    answer_type: AnswerType = "text"
    choices: tuple[str, ...] | None = None  # choice i has the letter chr(65 + i)
    meta: Mapping[str, Any] | None = None  # whatever else the file says
    prompt: str | None = None  # what the model is asked, where that is not the bare question

    def __post_init__(self) -> None:
        """Raise S2TError for a tolerance that is no finite number from 0 on."""
        tolerance = (self.meta or {}).get("tolerance")
        try:
            fits = tolerance is None or 0 <= float(str(tolerance)) < math.inf
        except ValueError:
            fits = False
        if not fits:
            raise S2TError(f"the tolerance of item {self.id!r} must be a number from 0 on, got {tolerance!r}")

    @property
    def asked(self) -> str:
        """What the model is asked."""
        return self.question if self.prompt is None else self.prompt


_FIELDS = frozenset(field.name for field in fields(Item)) - {"prompt"}  # prompts are made, not read


def load_pair_split(split: str, *, limit_per_domain: int | None = None) -> list[Item]:
    """Items of one split of the bundled pair, domain after domain. Raises S2TError for an unknown split or size."""
    from select_to_think.pairs.problems import SPLIT_SIZES, load_split

    known_name("split", split, SPLIT_SIZES)
    try:
        problems = load_split(split, limit_per_domain=limit_per_domain)
    except ValueError as error:
        raise S2TError(str(error)) from error
    return [Item(p.id, p.question, p.answer, domain=p.domain, split=split) for p in problems]


def load_items(path: str | Path, *, limit_per_domain: int | None = None, answered: bool = True) -> list[Item]:
    """Items of a JSON Lines file (`.gz` allowed) with the fields `id, question, answer` and optionally the others of
    `Item`; fields that `Item` does not have are kept in `meta`. Unless `answered`, an answer that is missing is empty.

    Raises S2TError naming file and line for a broken line, a missing field or a repeated id, and for an empty file.
    """
    path = Path(path)
    content = read_bytes(path, remedy="name an existing JSON Lines file")
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise S2TError(f"{path} is not a valid gzip file ({error}); download or compress it again") from error
    content = content.removeprefix(b"\xef\xbb\xbf")
    items: list[Item] = []
    places: dict[str, str] = {}
    for where, line in numbered_lines(path, content):
        record = decoded(line, where, remedy=CORRECT)
        if not isinstance(record, dict):
            raise S2TError(f"{where} is not a JSON object; {CORRECT}")
        item = _item(record if answered else {"answer": None, **record}, where, answered)
        if item.id in places:
            raise S2TError(f"{where}: the id {item.id!r} stands already in {places[item.id]}; make ids unique")
        places[item.id] = where.removeprefix(f"{path}, ")
        items.append(item)
    if not items:
        raise S2TError(f"{path} is empty; write one JSON object with id, question and answer per line")
    return limit_items(items, limit_per_domain)


def _item(record: Mapping[str, Any], where: str, answered: bool) -> Item:
    """Check one record, which has an answer if `answered`. Raises S2TError that starts with `where`."""
    for name in ("id", "question", "answer"):
        if name not in record:
            raise S2TError(f"{where} has no field {name!r}; each line needs id, question and answer")
    values = {name: _text(record[name], name, where) for name in ("id", "question")}
    values["answer"] = "" if record["answer"] is None and not answered else _text(record["answer"], "answer", where)
    choices = record.get("choices")
    if choices is not None:
        if not isinstance(choices, list) or not choices:
            raise S2TError(f"{where}: choices must be a list of texts")
        choices = tuple(_text(choice, "choices", where) for choice in choices)
    answer_type = record.get("answer_type", "text")
    if answer_type not in get_args(AnswerType):
        known = ", ".join(get_args(AnswerType))
        raise S2TError(f"{where}: answer_type must be one of {known}, got {answer_type!r}")
    meta = record.get("meta")
    if meta is not None and not isinstance(meta, dict):
        raise S2TError(f"{where}: meta must be an object")
    meta = {name: value for name, value in record.items() if name not in _FIELDS} | (meta or {})
    domain, split = (
        None if (text := record.get(name)) is None else _text(text, name, where) for name in ("domain", "split")
    )
    try:
        item = Item(
            **values,
            domain=domain or "all",
            split=split,
            answer_type=answer_type,
            choices=choices,
            meta=meta or None,
        )
    except S2TError as error:
        raise S2TError(f"{where}: {error}") from error
    form = GOLD.get(answer_type)
    if answered and form and not grade(item.answer, item.answer, answer_type, choices=choices, meta=item.meta).right:
        raise S2TError(f"{where}: under answer_type {answer_type} the answer is {form}, got {item.answer[:40]!r}")
    return item


def _text(value: Any, name: str, where: str) -> str:
    """A non-empty text; a JSON number or boolean counts as its spelling."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if not isinstance(value, str) or not value.strip():
        raise S2TError(f"{where}: {name} must be a text that is not empty")
    return value


def limit_items(items: Iterable[Item], limit_per_domain: int | None, *, skip: int = 0) -> list[Item]:
    """The first `limit_per_domain` items of each domain behind its first `skip`, in their order; None keeps all."""
    seen: dict[str, int] = {}
    kept = []
    for item in items:
        place = seen[item.domain] = seen.get(item.domain, 0) + 1
        if place > skip and (limit_per_domain is None or place <= skip + limit_per_domain):
            kept.append(item)
    return kept


def with_all(domains: Iterable[str]) -> list[str]:
    """Each domain once, in order of appearance, then "all" for the whole."""
    return [*dict.fromkeys(domain for domain in domains if domain != "all"), "all"]


_JOINS_WORDS = re.compile(r"(?<!\d)[.,;:?\"'`]+|[.,;:?\"'`]+(?!\d)")


def question_key(item: Item) -> str:
    """SHA-256 of the question (and its choices) without regard to case, blanks and punctuation between words.

    Signs that carry meaning (`+ - * / = ! %`, a point inside a number) count, so that "3 + 5" and "3 - 5" differ.
    """
    text = unicodedata.normalize("NFKC", "\n".join((item.question, *(item.choices or ())))).casefold()
    text = text.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2212: "-"})
    return hashlib.sha256(" ".join(_JOINS_WORDS.sub(" ", text).split()).encode()).hexdigest()


def assert_unseen(items: Iterable[Item], seen: Mapping[str, str], *, names: tuple[str, str]) -> None:
    """Raise S2TError naming the items whose `question_key` is in `seen` (key -> id). `names`: the seen set, `items`."""
    shared = [(seen[key], item.id) for item in items if (key := question_key(item)) in seen]
    if shared:
        pairs = ", ".join(f"{a} = {b}" for a, b in shared[:5]) + (", ..." if len(shared) > 5 else "")
        raise S2TError(
            f"the {names[0]} and the {names[1]} data share {len(shared)} question(s) ({pairs}); use disjoint data"
        )


def assert_unique(items: Sequence[Item]) -> None:
    """Raise S2TError for no items at all, or for an id that stands twice."""
    if not items:
        raise S2TError("there are no items; choose a split or a file that holds some, and a limit of at least 1")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise S2TError(f"the id {item.id!r} stands twice among the items; make ids unique")
        seen.add(item.id)


def refuse_test(items: Collection[Item], *, purpose: str, source: str | Path | None = None) -> None:
    """Raise S2TError if `items` are test data: an item's split is "test", or the file's name says so.

    `purpose` completes "refusing to ... test data", e.g. "collect from".
    """
    words = re.split(r"[^a-z0-9]+", Path(source).name.casefold()) if source is not None else []
    if TEST in words:
        raise S2TError(f"refusing to {purpose} test data: {source} is named test; use a training split")
    for item in items:
        if item.split is not None and TEST in re.split(r"[^a-z0-9]+", item.split.casefold()):
            raise S2TError(f"refusing to {purpose} test data: item {item.id} is of split {item.split}; use train")


def items_note(items: Sequence[Item]) -> dict[str, Any]:
    """What the settings of a run say of its items, under "items"."""
    return {"count": len(items), "sha256": items_digest(items)}


def require_same_run(folder: Path, before: Json, now: Json) -> None:
    """Raise S2TError if work in `folder` was begun with other settings or, where those are equal, with other items."""
    old, new = ({name: value for name, value in run.items() if name != "items"} for run in (before, now))
    require_same_settings(folder, old, new)
    if before.get("items") != now["items"]:
        counts = f"{before.get('items', {}).get('count')} there, {now['items']['count']} here"
        raise S2TError(
            f"{folder} holds the answers to other questions ({counts}); name another folder, or ask the same"
        )


def items_digest(items: Iterable[Item]) -> str:
    """SHA-256 over all that is asked and what grades it, in order: which items a run is about."""
    digest = hashlib.sha256()
    for item in items:
        told = {name: value for name, value in asdict(item).items() if name != "split"}
        digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    return digest.hexdigest()
