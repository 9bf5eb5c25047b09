"""What an evaluation leaves behind: typed rows, one record per item and method, and where the numbers come from.

A run's folder holds `results.json`, `records-METHOD.jsonl` (in item order) and `run.json` (its settings). Reading them
needs no torch.

Non-goals: computing rows (`metrics.py`) and running methods (`runner.py`).
"""

from __future__ import annotations

import functools
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, NotRequired

from pydantic import Field, NonNegativeFloat, NonNegativeInt
from typing_extensions import TypedDict, TypeVar

from select_to_think import __version__
from select_to_think.evaluation.statistics import PairedDifference
from select_to_think.files import parse_records, read_bytes, read_record, write_json_atomic
from select_to_think.structures import Chooser, Counts, FinishReason, S2TError

if TYPE_CHECKING:
    from select_to_think.session import Session

SCHEMA: Final = 1
RUN = "run.json"  # the settings of a run
RESULTS = "results.json"
MEASURE = "measure.json"  # what `s2t measure --json` printed, if it was kept in the run's folder
KS = (1, 2, 4, 8, 16, 32)  # of Hit@k
PROMPT_TOO_LONG: Final = "prompt_too_long"
PACKAGES = ("torch", "transformers", "peft", "llama-cpp-python")
REMEDY = "name a folder that `s2t eval --out` wrote"


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One method in one domain ("all": every item). What does not exist for a method is None."""

    method: str
    domain: str
    n: NonNegativeInt  # answers: items, times `seeds`
    accuracy: Annotated[float, Field(ge=0, le=1)]
    stderr: float | None  # of the accuracy, over items; None for a single one
    tokens: int  # generated tokens of the answers; for maj@N of the winning samples
    seconds: float  # wall time, prefill included
    tokens_per_second: float | None
    trigger_rate: float | None  # triggered steps / generated tokens; None for methods without a trigger
    flip_rate: float | None  # flips / triggered steps
    hit_at_8: float | None  # triggered steps whose LLM top-1 is in the SLM's top 8; None unless the LLM was asked
    llm_tokens_generated: int
    llm_tokens_processed: int
    llm_forwards: int
    # What follows was added later: older files lack it.
    truncated: int | None = None  # answers cut off by the token limit
    prompts_too_long: int | None = None  # prompts that do not fit the context: not answered, counted as wrong
    slm_tokens_processed: int | None = None  # tokens fed through the SLM
    llm_tokens_share: float | None = None  # tokens that the LLM wrote or chose / tokens
    flops: float | None = None  # floating-point operations of both models, estimated from their shapes
    money: float | None = None  # in the currency of the prices; None without prices
    seeds: int = 1  # runs that differ by seed; counts are summed over them
    baseline: str | None = None  # what `paired` compares with; None for the baseline itself and without its answers
    paired: PairedDifference | None = None  # this method minus the baseline, on the same items
    llm_failures: int | None = None  # see `Counts`; None for methods that ask no LLM
    # MentorCollab, see `Counts`; None for other methods. The accepted tokens are `llm_tokens_generated`.
    consultations: int | None = None
    disagreements: int | None = None
    mentor_choices: int | None = None
    mentor_tokens_rejected: int | None = None


@dataclass(frozen=True)
class SufficiencyRow:
    """Local sufficiency in one domain ("all": every item). None where there is no step to look at."""

    domain: str
    n_items: int
    n_steps: int  # triggered steps
    hit_at: dict[str, float | None]  # share of the triggered steps whose LLM top-1 is in the SLM's top k
    stderr_at: dict[str, float | None]  # clustered by item
    flip_rate: float | None  # share at which the LLM prefers another of the K candidates to the SLM's greedy token
    agreement: float | None  # share of ALL steps at which both models have the same top-1


class Candidate(TypedDict):
    """One of the tokens (or, under MentorCollab, segments) between which a step chose."""

    id: int
    text: str
    logprob: float | None
    score: float | None


class Step(TypedDict):
    """A triggered step, see `tracing.step_records`."""

    token: int
    text: str
    greedy: int | None
    statistic: float | None
    candidates: list[Candidate]
    choice: int | None
    chooser: Chooser
    flip: bool
    llm_top: int | None
    index: int
    start: NonNegativeInt | None
    end: NonNegativeInt | None


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """One item answered by one method.

    `seconds`: each moment of wall time is split evenly among the items that are being decoded then, so the seconds of
    all items add up to the wall time. `steps`: the triggered steps only (see `tracing.step_json`). `finish_reason`:
    "stop", "length" (cut off by the token limit), or "prompt_too_long" (not asked, as the prompt and the longest answer
    do not fit the context).
    """

    schema: Literal[1] = field(default=SCHEMA, kw_only=True)
    id: str
    domain: str
    method: str
    question: str
    answer: str
    text: str
    extracted: str | None
    right: bool
    rule: str
    finish_reason: FinishReason | Literal["prompt_too_long"]
    tokens: NonNegativeInt
    seconds: NonNegativeFloat
    steps: list[Step]
    counts: Counts
    fired: NonNegativeInt
    flips: NonNegativeInt
    votes: list[str] = field(default_factory=list)  # maj@N: the extracted answers of the samples
    # What follows was added later: older files lack it.
    subject: str | None = None  # part of the benchmark
    prompt_tokens: int | None = None
    flops: float | None = None  # see `ResultRow`

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this record; the steps are its own, not copies."""
        return {**{each.name: getattr(self, each.name) for each in fields(self)}, "counts": asdict(self.counts)}


def read_records(path: Path) -> list[ItemRecord]:
    """Every record of a file, each item once. Raises S2TError naming the line that is broken."""
    remedy = "delete the file and run the same `s2t eval` command again"
    records = list(parse_records(ItemRecord, path, read_bytes(path, remedy=remedy), remedy=remedy))
    doubled = [item_id for item_id, count in Counter(record.id for record in records).items() if count > 1]
    if doubled:
        raise S2TError(f"{path} holds the item {doubled[0]!r} more than once; {remedy}")
    return records


class Provenance(TypedDict):
    """Where numbers come from, see `provenance`."""

    date: NotRequired[str]
    versions: NotRequired[dict[str, str | None]]
    git_hash: NotRequired[str | None]
    dirty: NotRequired[bool | None]
    seeds: NotRequired[list[NonNegativeInt]]
    device: NotRequired[str]
    dtype: NotRequired[str]
    platform: NotRequired[str]
    slm_fingerprint: NotRequired[str]
    config: NotRequired[dict[str, Any]]
    notes: NotRequired[list[str]]


Row = TypeVar("Row", default=ResultRow)


@dataclass(frozen=True)
class Results(Generic[Row]):
    """What a command found: rows (dataclasses; of an evaluation, method by method) and where they come from."""

    schema: Literal[1] = field(default=SCHEMA, kw_only=True)
    rows: Annotated[tuple[Row, ...], Field(alias="results")]
    provenance: Provenance

    def to_json(self) -> dict[str, Any]:
        """The object that `s2t eval --json` and `s2t measure --json` print."""
        return {"results" if name == "rows" else name: value for name, value in asdict(self).items()}

    def save(self, path: Path) -> None:
        """Write the JSON object atomically. Raises S2TError if the path cannot be written."""
        write_json_atomic(path, self.to_json())


def load_results(path: Path) -> Results:
    """Read `results.json`. Raises S2TError if it is missing (a run that was killed has none), broken or of another
    schema.
    """
    if not path.exists() and path.with_name(RUN).exists():
        raise S2TError(f"{path.parent} holds a run that is not finished: give its `s2t eval` command again")
    return read_record(Results[ResultRow], path, remedy=REMEDY)


def provenance(session: Session, config: Mapping[str, Any], *, seeds: Sequence[int]) -> Provenance:
    """Where numbers come from: code, versions, machine, models, every setting, and what must be said of the pair.

    Loads no LLM.

    `git_hash` and `dirty` are None outside a checkout of this project.
    """
    git_hash, dirty = git_state()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "select-to-think": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "git_hash": git_hash,
        "dirty": dirty,
        "seeds": list(seeds),
        "device": device_name(session),
        "dtype": session.slm.dtype.removeprefix("torch."),
        "platform": platform.platform(),
        "slm_fingerprint": session.slm.fingerprint,
        "config": {"pair": asdict(session.config), **config},
        "notes": list(session.notes),
    }


def device_name(session: Session) -> str:
    """The device of the models, with its product name where there is one: "cpu", "cuda:0 (NVIDIA H200)"."""
    device = session.slm.device
    if device.type != "cuda":
        return str(device)
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """(commit, uncommitted changes) of the checkout that this code runs from; (None, None) if it is not one."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie inside somebody else's checkout
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
