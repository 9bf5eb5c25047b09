"""The values that travel between policies, the runtime and the contexts.

A policy is a generator for ONE sequence: it yields requests and gets small observations back. No record is changed once
it is made; those made at every token are not frozen, which would cost three times as much. Nothing here imports torch.

Non-goals: behaviour. These are records; the meaning of each field is defined here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
FinishReason = Literal["stop", "length"]
Chooser = Literal["slm", "llm", "scorer"]
Progress = Callable[[int, int], None]  # called with (done, total) as long work goes on; done never falls
Stage = Callable[[str], AbstractContextManager[Progress | None]]  # shows one named part of long work


def silent(name: str) -> AbstractContextManager[None]:
    """The `Stage` that shows nothing."""
    return nullcontext()


class S2TError(Exception):
    """A mistake in the input or the environment; the message is one line and names the remedy (exit code 2)."""


class PromptTooLong(S2TError):
    """A prompt of `tokens` tokens that, with the longest answer, does not fit the context."""

    def __init__(self, message: str, tokens: int) -> None:
        """The message, and the length of the prompt."""
        super().__init__(message)
        self.tokens = tokens


class ModelUnavailable(S2TError):
    """A model that is reached over a network did not answer. A policy that can go on without it catches this."""


class ModelRefused(S2TError):
    """Whoever serves a model refuses the key of this process, or serves another model by now."""


class Undecided(ModelUnavailable):
    """A model answered, and what it told leaves the choice among the candidates open."""


def shared_length(one: Sequence[object], other: Sequence[object]) -> int:
    """How many tokens (or characters) two sequences have in common at their beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn. `uniform` in [0, 1) is the row's own random number for this step."""

    uniform: float
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass(frozen=True, slots=True)
class Observe:
    """What an `Extend` or a `Branch` should report, computed batched on the device: of the last token of the extension
    (of each continuation for a branch), P = 1; with `every` of each appended token, P = number of appended tokens."""

    top_k: int = 0
    entropy: bool = False
    ids: tuple[tuple[int, ...], ...] | None = None  # P tuples of asked token ids, all of one length
    sampling: Sampling | None = None
    bins: bool = False
    hidden: bool = False
    every: bool = False
    bias: tuple[tuple[int, float], ...] = ()  # (token id, nats) added to logits before anything is computed from them
    best_only: bool = False  # of `ids` only the best one matters: a server may then tell less than log-probabilities
    logits: bool = field(init=False, repr=False, compare=False)  # whether the vocabulary head must run

    def __post_init__(self) -> None:
        logits = bool(self.top_k or self.entropy or self.ids is not None or self.sampling)
        object.__setattr__(self, "logits", logits)


@dataclass(slots=True)
class Observation:
    """What came back, on the host: the fields that were asked for. P = observed positions, or leaves of a `Branch`.

    Position p describes the distribution of the token that FOLLOWS the p-th observed token.
    """

    top_ids: Ids = None  # type: ignore[assignment]  # (P, top_k), best first
    top_logprobs: Floats = None  # type: ignore[assignment]  # (P, top_k), nats
    entropy_nats: Floats = None  # type: ignore[assignment]  # (P,)
    asked_logprobs: Floats = None  # type: ignore[assignment]  # (P, asked), nats
    sampled_id: int = None  # type: ignore[assignment]
    sampled_logprob: float = None  # type: ignore[assignment]  # nats, under the untempered distribution
    bin_scores: Floats = None  # type: ignore[assignment]  # (P,), expected bin in [0, 1]
    hidden: Floats = None  # type: ignore[assignment]  # (P, hidden_size), the last layer after the final norm

    def line(self, p: int) -> Observation:
        """Position p alone."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        lines: dict[str, Any] = {n: v[p : p + 1] if isinstance(v, np.ndarray) else v for n, v in values.items()}
        return Observation(**lines)


@dataclass(slots=True)
class Extend:
    """Append `tokens` to this sequence's context in `model`. Without `observe` it is deferred: it costs nothing until
    the next request to the same model, which carries it along in the same forward."""

    model: str
    tokens: Sequence[int]
    observe: Observe | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """Observe alternative continuations of the context in ONE forward; the context stays as it was.

    With `adapter` the leaves are computed under the adapter of that role, on the context's own keys and values. An
    `optional` branch may come back empty, where showing it would cost more than the step that it saves.
    """

    model: str
    continuations: Sequence[Sequence[int]]
    observe: Observe
    adapter: str | None = None
    optional: bool = False

    @property
    def width(self) -> int:
        """Tokens of all leaves."""
        return sum(map(len, self.continuations))


@dataclass(frozen=True, slots=True)
class Submit:
    """Ask, and go on at once; `Collect` brings the answer."""

    request: Extend | Branch


@dataclass(frozen=True, slots=True)
class Collect:
    """The answer to what was submitted first. Without `wait` it may be None: not there yet, and nobody else computes,
    so the sequence may compute ahead of the answer and ask again."""

    wait: bool = False


@dataclass(frozen=True, slots=True)
class Adopt:
    """Go on with one leaf of the context's last branch (one without `adapter`). Free: no forward."""

    model: str
    leaf: int


@dataclass(slots=True)
class Commit:
    """These steps are final; whoever reads along may have them."""

    steps: Sequence[StepRecord]


@dataclass(frozen=True, slots=True)
class Truncate:
    """Roll the context in `model` back to its first `length` tokens. Free: no forward, no copy."""

    model: str
    length: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Start children that inherit this sequence's contexts as they are now (the prompt is paid once). The answer comes
    at once; finished children are awaited with `Join`. Children still running when the parent returns are stopped."""

    children: Sequence[PolicyRun]


@dataclass(frozen=True, slots=True)
class Join:
    """Wait for the next child that finishes; the answer is its `Generation`, in order of finishing."""


Request = Extend | Branch | Submit | Collect | Truncate | Adopt | Commit | Fork | Join
Requests = Request | tuple[Extend | Branch, ...]  # a tuple is asked at once, and answered together


@dataclass(frozen=True, slots=True)
class Role:
    """What a policy's name for a model stands for: a backend, and the adapter of the context there."""

    backend: str
    adapter: str | None = None


@dataclass(slots=True)
class Counts:
    """What a sequence cost. Tokens are counted as tokens, forwards as forwards that this sequence took part in."""

    slm_tokens_processed: int = 0
    slm_tokens_cached: int = 0  # copied from a sequence that began alike
    slm_forwards: int = 0
    slm_tokens_discarded: int = 0  # written ahead of the LLM's choice, behind other candidates
    llm_tokens_generated: int = 0  # of the output, written by the LLM; those that it only selected are the SLM's
    llm_tokens_processed: int = 0
    llm_tokens_cached: int = 0
    llm_forwards: int = 0
    llm_questions_discarded: int = 0  # asked ahead of the LLM's choice, behind other candidates
    llm_failures: int = 0  # steps (words, under MentorCollab) at which the LLM was not reached: the SLM chose alone
    # MentorCollab. Tokens that both models wrote are the SLM's own.
    consultations: int = 0  # words at which the mentor was asked for its own
    disagreements: int = 0  # consultations at which that was another word
    mentor_choices: int = 0  # disagreements at which the verifier took the mentor's segment
    mentor_tokens_accepted: int = 0
    mentor_tokens_rejected: int = 0

    def add(self, other: Counts) -> None:
        """Add `other` to this, field by field."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class StepRecord:
    """One generated token, and how it was decided."""

    token: int
    logprob: float  # nats, under the model that proposed the step
    greedy_token: int | None = None  # the SLM's own greedy token, where the SLM proposed
    statistic: float | None = None  # the trigger's statistic; its unit is the trigger's
    fired: bool = False
    candidates: tuple[int, ...] = ()  # the SLM's top-K, best first; filled at fired steps
    candidate_logprobs: tuple[float, ...] = ()  # log p_SLM of the candidates, nats; MentorCollab: of each one's model
    scores: tuple[float, ...] = ()  # the selector's scores of the candidates; higher is better
    llm_top_token: int | None = None  # the LLM's top-1 over the whole vocabulary, where it was asked
    chooser: Chooser = "slm"
    llm_failed: bool = False  # the LLM was asked and not reached: the SLM's own choice
    segments: tuple[tuple[int, ...], ...] = ()  # MentorCollab: what each candidate begins, the SLM's first
    alternatives: tuple[int, ...] = ()  # the most probable tokens of the model that proposed the step, if asked for
    alternative_logprobs: tuple[float, ...] = ()  # nats

    @property
    def flip(self) -> bool:
        """A triggered step whose choice differs from the SLM's greedy token."""
        return self.fired and self.greedy_token is not None and self.token != self.greedy_token

    @property
    def decided(self) -> tuple[int, ...]:
        """The tokens that were decided at this step: the chosen segment, or the token alone."""
        return next((segment for segment in self.segments if segment[0] == self.token), (self.token,))


@dataclass(frozen=True, slots=True)
class Generation:
    """One finished sequence: tokens without the prompt (a stop token included, if one ended it), and the trace."""

    tokens: tuple[int, ...]
    finish_reason: FinishReason
    steps: tuple[StepRecord, ...]
    counts: Counts = field(default_factory=Counts)
    text: str = ""  # filled by the session, which knows the tokenizer
    votes: tuple[str, ...] = ()  # maj@N: the extracted answer of each sample, in row order

    @property
    def logprob(self) -> float:
        """Summed log-probability of the tokens in nats."""
        return sum(step.logprob for step in self.steps)

    @property
    def fired_count(self) -> int:
        """Number of triggered steps."""
        return sum(step.fired for step in self.steps)

    @property
    def flip_count(self) -> int:
        """Number of flips."""
        return sum(step.flip for step in self.steps)


PolicyRun = Generator[Requests, Any, Generation]
