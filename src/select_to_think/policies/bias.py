"""A bias on the logits of some tokens, under any policy: `biased` wraps one run, and the policy stays as it is.

What the SLM and the LLM say of their next token is said under the bias: proposals, draws, scores, triggers. What a
verifier is asked is another text, and has none.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any, TypeVar

from select_to_think.policies.base import relayed
from select_to_think.structures import Branch, Extend, Fork, Requests, Submit

WRITERS = ("slm", "llm")
R = TypeVar("R")


def biased(run: Generator[Requests, Any, R], bias: tuple[tuple[int, float], ...]) -> Generator[Requests, Any, R]:
    """The same run where `bias`, pairs of a token id and nats, is added to the logits."""

    def hear(request: Requests) -> Generator[Requests, Any, Any]:
        if isinstance(request, tuple):
            return (yield tuple(with_bias(single, bias) for single in request))
        return (yield with_bias(request, bias))

    return relayed(run, hear)


def with_bias(request: Any, bias: tuple[tuple[int, float], ...]) -> Any:
    """A request under the bias; those of children too."""
    if isinstance(request, Fork):
        return Fork([biased(child, bias) for child in request.children])
    if isinstance(request, Submit):
        return Submit(with_bias(request.request, bias))
    if isinstance(request, Extend | Branch) and request.model in WRITERS and request.observe is not None:
        return replace(request, observe=replace(request.observe, bias=bias))
    return request
