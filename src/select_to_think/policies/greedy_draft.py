"""A model that writes greedily ahead of the settled text, and keeps what the text then confirms.

Its context holds the settled text as far as it has read it, and its own draft behind. When more text is settled, the
part of the draft that agrees stays, decoded and cached; the rest is rolled back. A model that is not asked reads
nothing: what was settled meanwhile goes along with its next token, in one forward.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from select_to_think.policies.base import Limits
from select_to_think.structures import Extend, Observe, Requests, StepRecord, Truncate, shared_length


@dataclass(slots=True)
class GreedyDraft:
    """One model's draft. `text` is shared: prompt and settled output, to which the owner appends before `settle`."""

    model: Literal["slm", "llm"]
    text: list[int]
    limits: Limits
    draft: list[StepRecord] = field(default_factory=list)
    held: int = 0  # tokens in the model's context: of a draft, all but the newest

    @property
    def ended(self) -> bool:
        """Whether the draft ends with a stop token."""
        return bool(self.draft) and self.draft[-1].token in self.limits.stop_ids

    @property
    def top_k(self) -> int:
        """Tokens that are looked at."""
        return max(1, self.limits.alternatives)

    def tokens(self, size: int) -> tuple[int, ...]:
        """The first `size` tokens of the draft."""
        return tuple(step.token for step in self.draft[:size])

    def write(self, size: int) -> Generator[Requests, Any, None]:
        """Go on until the draft has `size` tokens or has ended."""
        while len(self.draft) < size and not self.ended:
            fresh = [self.draft[-1].token] if self.draft else self.text[self.held :]
            seen = yield Extend(self.model, fresh, Observe(self.top_k))
            self.held += len(fresh)
            self.draft.append(self.limits.greedy(seen, chooser=self.model))

    def guess(self, tokens: Sequence[int]) -> Generator[Requests, Any, None]:
        """Draft as far as the model writes `tokens`, and one token more, in a single forward.

        The draft is what `write` would have made of it; a wrong guess costs reading its tokens.
        """
        begun = len(self.draft)
        read = tokens[:-1] if tokens[-1] in self.limits.stop_ids else tokens
        inputs = [self.text[-1], *read][begun:]
        if not inputs or self.tokens(begun) != tuple(tokens[:begun]):
            return
        yield Extend(self.model, self.text[self.held : -1])
        self.held = max(self.held, len(self.text) - 1)  # whatever becomes of the question behind it
        seen = yield Extend(self.model, inputs, Observe(self.top_k, every=True))
        written = [int(token) for token in seen.top_ids[:, 0]]
        kept = shared_length(written, inputs[1:]) + 1
        self.draft += [self.limits.greedy(seen, line, self.model) for line in range(kept)]
        self.held = len(self.text) + len(self.draft) - 1
        if kept < len(inputs):
            yield Truncate(self.model, self.held)

    def settle(self, tokens: Sequence[int]) -> Generator[Requests, Any, None]:
        """`tokens` were appended to the text."""
        same = shared_length(tokens, self.tokens(len(tokens)))
        if same == len(tokens):
            del self.draft[:same]
            return
        self.draft.clear()
        right = len(self.text) - len(tokens) + same
        if self.held > right:
            yield Truncate(self.model, right)
            self.held = right
