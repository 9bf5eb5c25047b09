"""The one shape of a benchmark: where its items are, how a hub row becomes an item, what may be trained on, its prompt.

Non-goals: grading (`grading/`), running, and keeping copies of data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from select_to_think.evaluation.items import AnswerType, Item, load_items
from select_to_think.structures import S2TError

Role = Literal["train", "test"]
Row = Mapping[str, Any]
ToRecord = Callable[[Row, int, str], dict[str, Any]]

STEP_BY_STEP = (
    "{question}\n\nThink step by step, and put your final answer within \\boxed{}, with nothing else inside the box."
)
CHOOSE = (
    "{question}\n\n{choices}\n\n"
    'Think step by step, then finish with "The answer is (X)", where X is the letter of the right choice: {letters}.'
)
YES_OR_NO = '{question}\n\nThink step by step, then finish with "The answer is yes" or "The answer is no".'
COMPLETE = (
    "Complete this Python function. Answer with the whole function, imports included, in one Python code block.\n\n"
    "```python\n{question}\n```"
)

_FIELD = re.compile(r"\{(question|choices|letters)\}")


@dataclass(frozen=True, slots=True)
class Split:
    """One part of a benchmark: its name on the hub, the names its file may have locally, and what it may be used for.

    `hub` may join parts with "+" as the `datasets` library does; None: not on the hub.
    """

    role: Role
    hub: str | None
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark. `to_record` turns a hub row (row, index, split) into a record of the local schema."""

    name: str
    answer_type: AnswerType
    prompt: str  # the zero-shot default; may hold {question}, {choices} and {letters}
    splits: Mapping[str, Split]
    to_record: ToRecord | None = None
    split_of: Callable[[Row], str] | None = None  # the split of a hub row, where the hub divides the rows otherwise
    hub: str | None = None  # the data set's name on the hub
    config: str | None = None
    revision: str | None = None  # the hub's commit
    default_split: str = "test"
    solution: str = "The answer is {answer}."  # how a solved example ends in a few-shot prompt

    def split(self, name: str | None) -> tuple[str, Split]:
        """A split by name, the default one for None. Raises S2TError naming those that exist."""
        name = name or self.default_split
        if name not in self.splits:
            raise S2TError(f"{self.name} has no split {name!r}: use one of {', '.join(self.splits)}")
        return name, self.splits[name]

    def load(self, split: str | None = None, *, data_dir: str | Path | None = None) -> list[Item]:
        """Items of a split in their order, from a local folder or from the hub; both give the same items and ids.

        The domain of every item is the benchmark's name; its subject stays in `meta`.

        Raises:
            S2TError: unknown split, missing or broken file, `datasets` not installed, rows of an unknown form.
        """
        name, part = self.split(split)
        items = self._local(part, Path(data_dir)) if data_dir is not None else self._from_hub(name, part)
        return [self._finished(item, name) for item in items]

    def _local(self, part: Split, folder: Path) -> list[Item]:
        """Items of the first of the split's files that exists."""
        for file in part.files:
            for ending in (".jsonl.gz", ".jsonl"):
                if (folder / (file + ending)).is_file():
                    return load_items(folder / (file + ending))
        wanted = " or ".join(f"{file}.jsonl[.gz]" for file in part.files)
        raise S2TError(f"{self.name}: {folder} holds no {wanted}; put it there or leave --data-dir out to use the hub")

    def _from_hub(self, name: str, part: Split) -> list[Item]:
        """Items of a split of the hub's data set."""
        if self.hub is None or part.hub is None or self.to_record is None:
            raise S2TError(f"{self.name} ({name}) is not on the hub: give a folder that holds it with --data-dir")
        rows = hub_rows(self.hub, self.config, part.hub, self.revision)
        return self.from_rows(rows, name)

    def from_rows(self, rows: Iterable[Row], split: str) -> list[Item]:
        """Items from rows in the hub's schema; the split's own name goes into the ids."""
        assert self.to_record is not None
        items = []
        for index, row in enumerate(rows):
            try:
                if self.split_of is not None and self.split_of(row) != split:
                    continue
                items.append(item_of(self.to_record(row, index, split)))
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise S2TError(
                    f"{self.name}, row {index}: not in the form of {self.hub} at {self.revision} ({error!r}); "
                    "pin that revision or use --data-dir"
                ) from error
        return items

    def _finished(self, item: Item, split: str) -> Item:
        """The item with its benchmark, split and, for programs, the prompt that the answer continues."""
        meta = dict(item.meta or {})
        if item.answer_type == "code":
            meta.setdefault("prompt", item.question)
        return replace(item, domain=self.name, split=split, meta=meta or None)

    def ask(self, item: Item, *, template: str | None = None, shots: Sequence[Item] = ()) -> str:
        """What the model is asked: the solved `shots`, if any, then the item, each in the template.

        A custom template may hold {question}, {choices} and {letters}; all other braces stay as they are.
        """
        template = template or self.prompt
        solved = [f"{fill(template, shot)}\n\n{self.solution.replace('{answer}', shot.answer)}" for shot in shots]
        return "\n\n\n".join([*solved, fill(template, item)])


def fill(template: str, item: Item) -> str:
    """A template with the item's question and choices put in."""
    letters = [chr(65 + i) for i in range(len(item.choices or ()))]
    choices = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, item.choices or (), strict=True))
    values = {"question": item.question, "choices": choices, "letters": ", ".join(letters)}
    return _FIELD.sub(lambda match: values[match[1]], template)


def item_of(record: Mapping[str, Any]) -> Item:
    """An item from a record of the local schema: `subject` goes into `meta`, as it does for a local file."""
    meta = {key: record[key] for key in ("subject",) if record.get(key)} | dict(record.get("meta") or {})
    choices = record.get("choices")
    return Item(
        id=str(record["id"]),
        question=str(record["question"]),
        answer=str(record["answer"]),
        answer_type=cast(AnswerType, record["answer_type"]),
        choices=tuple(map(str, choices)) if choices else None,
        meta=meta or None,
    )


def hub_rows(path: str, config: str | None, split: str, revision: str | None) -> Iterable[Row]:
    """Rows of a hub data set at a pinned revision, through the optional `datasets` library."""
    try:
        import datasets
    except ImportError as error:
        raise S2TError(
            "loading from the hub needs datasets: pip install 'select-to-think[benchmarks]', or use --data-dir"
        ) from error
    try:
        return cast(Iterable[Row], datasets.load_dataset(path, config, split=split, revision=revision))
    except Exception as error:  # whatever the network or the library says, the user needs the remedy
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise S2TError(
            f"{path} could not be loaded from the hub ({reason}); use --data-dir with local files"
        ) from error


def record(
    id: str,
    question: str,
    answer: str,
    answer_type: AnswerType,
    *,
    choices: Sequence[str] | None = None,
    subject: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A record of the local schema."""
    fields: dict[str, Any] = {"id": id, "question": question, "answer": answer, "answer_type": answer_type}
    optional = {"choices": list(choices) if choices else None, "subject": subject, "meta": dict(meta) if meta else None}
    return fields | {name: value for name, value in optional.items() if value}


def integer(value: object) -> str:
    """A number as the shortest text: "1,234" and 1234.0 are "1234"."""
    return str(value).replace(",", "").strip().removesuffix(".0")
