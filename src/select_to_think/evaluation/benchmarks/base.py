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
from select_to_think.text import installing

Role = Literal["train", "test"]
Row = Mapping[str, Any]

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

PROMPTS: Mapping[str, str] = {
    "number": STEP_BY_STEP,
    "math": STEP_BY_STEP,
    "choice": CHOOSE,
    "bool": YES_OR_NO,
    "code": COMPLETE,
}  # zero-shot, of a benchmark; may hold {question}, {choices} and {letters}
SOLUTIONS: Mapping[str, str] = {"choice": "The answer is ({answer}).", "code": "```python\n{answer}\n```"}

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
    """A benchmark. `id` is the pattern of its ids; `question` to `meta` name columns of a hub row."""

    name: str
    answer_type: AnswerType
    splits: Mapping[str, Split]
    default_split: str = "test"
    hub: str | None = None  # the data set's name on the hub
    config: str | None = None
    revision: str | None = None  # the hub's commit
    id: str = ""  # of columns, {split} and {index}
    question: str = "question"
    answer: str = "answer"
    choices: str | None = None
    subject: str | None = None
    meta: Sequence[str] = ()
    amend: Callable[[Row], Row] = lambda row: {}  # what of a row stands otherwise than this shape expects
    split_of: Callable[[Row], str] | None = None  # the split of a hub row, where the hub divides the rows otherwise

    @property
    def prompt(self) -> str:
        """The zero-shot default."""
        return PROMPTS[self.answer_type]

    def solved(self, item: Item) -> str:
        """How a solved example ends in a few-shot prompt."""
        return SOLUTIONS.get(self.answer_type, "The answer is {answer}.").replace("{answer}", item.answer)

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
        if data_dir is not None:
            items = self._local(part, Path(data_dir))
        elif self.hub is None or part.hub is None:
            raise S2TError(f"{self.name} ({name}) is not on the hub: give a folder that holds it with --data-dir")
        else:
            items = self.from_rows(hub_rows(self.hub, self.config, part.hub, self.revision), name)
        return [self._finished(item, name) for item in items]

    def _local(self, part: Split, folder: Path) -> list[Item]:
        """Items of the first of the split's files that exists."""
        for file in part.files:
            for ending in (".jsonl.gz", ".jsonl"):
                if (folder / (file + ending)).is_file():
                    return load_items(folder / (file + ending))
        wanted = " or ".join(f"{file}.jsonl[.gz]" for file in part.files)
        raise S2TError(f"{self.name}: {folder} holds no {wanted}; put it there or leave --data-dir out to use the hub")

    def from_rows(self, rows: Iterable[Row], split: str) -> list[Item]:
        """Items from rows in the hub's schema; the split's own name goes into the ids."""
        items = []
        for index, row in enumerate(rows):
            try:
                if self.split_of is not None and self.split_of(row) != split:
                    continue
                items.append(self._from_row(row, index, split))
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise S2TError(
                    f"{self.name}, row {index}: not in the form of {self.hub} at {self.revision} ({error!r}); "
                    "pin that revision or use --data-dir"
                ) from error
        return items

    def _from_row(self, row: Row, index: int, split: str) -> Item:
        row = {**row, "split": split, "index": index, **self.amend(row)}
        choices = row[self.choices] if self.choices else None
        meta = {"subject": row[self.subject] if self.subject else None} | {name: row[name] for name in self.meta}
        return Item(
            id=self.id.format_map(row),
            question=str(row[self.question]),
            answer=str(row[self.answer]),
            answer_type=self.answer_type,
            choices=tuple(map(str, choices)) if choices else None,
            meta={name: value for name, value in meta.items() if value not in (None, "")} or None,
        )

    def _finished(self, item: Item, split: str) -> Item:
        """The item with its benchmark, split and, for programs, the prompt that the answer continues."""
        meta = dict(item.meta or {})
        if item.answer_type == "code":
            meta.setdefault("prompt", item.question)
        return replace(item, domain=self.name, split=split, meta=meta or None)


def fill(template: str, item: Item) -> str:
    """A template with the item's {question}, {choices} and {letters} put in; all other braces stay as they are."""
    letters = [chr(65 + i) for i in range(len(item.choices or ()))]
    choices = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, item.choices or (), strict=True))
    values = {"question": item.question, "choices": choices, "letters": ", ".join(letters)}
    return _FIELD.sub(lambda match: values[match[1]], template)


def hub_rows(path: str, config: str | None, split: str, revision: str | None) -> Iterable[Row]:
    """Rows of a hub data set at a pinned revision, through the optional `datasets` library."""
    try:
        import datasets
    except ImportError as error:
        raise S2TError(f"loading from the hub needs datasets: use --data-dir, or {installing('benchmarks')}") from error
    try:
        return cast(Iterable[Row], datasets.load_dataset(path, config, split=split, revision=revision))
    except Exception as error:  # whatever the network or the library says, the user needs the remedy
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise S2TError(
            f"{path} could not be loaded from the hub ({reason}); use --data-dir with local files"
        ) from error
