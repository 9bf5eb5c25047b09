"""The table of methods: every name that a user may type, and what it means. `maj@N` stands for any N."""

from __future__ import annotations

import re

from select_to_think.structures import S2TError, unknown_name

METHODS = {
    "greedy": "the SLM's most probable token at every step",
    "sample": "the SLM, sampled with temperature, top-p, top-k and min-p",
    "maj@8": "self-consistency: majority vote over N samples of the SLM (any N: maj@4, maj@16 ...)",
    "distill": "the SLM, fine-tuned on the LLM by distillation, greedy; no LLM",
    "llm": "the LLM alone, greedy",
    "takeover": "where the trigger fires, the LLM writes the token",
    "s2t": "where the trigger fires, the LLM selects among the SLM's top-K",
    "s2t-local": "where the trigger fires, the SLM's own scorer selects; no LLM",
    "mentor-free": "where the LLM's next word differs, the SLM judges between two short segments",
    "mentor-mlp": "the same, judged by a small network on the SLM's hidden state",
    "mentor-coin": "the same, judged by a coin: the control",
}
MENTOR = frozenset({"mentor-free", "mentor-mlp", "mentor-coin"})
NEEDS_LLM = frozenset({"llm", "takeover", "s2t"}) | MENTOR
TRIGGERS = ("kl", "entropy", "margin", "random", "learned")
LLM_FREE_TRIGGERS = ("entropy", "margin", "random", "learned")


def parse_method(name: str) -> tuple[str, int]:
    """Split `maj@8` into ("maj", 8); every other method has N = 1.

    Raises:
        S2TError: an unknown name, with the nearest one.
    """
    if vote := re.fullmatch(r"maj@([1-9]\d*)", name):
        return "maj", int(vote[1])
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return name, 1


def default_trigger(method: str, shared_vocabulary: bool = True) -> str:
    """The trigger of a method where none is named: the one of the paper wherever it works."""
    return "kl" if method != "s2t-local" and shared_vocabulary else "entropy"


def check_trigger(method: str, trigger: str, shared_vocabulary: bool = True) -> None:
    """Raises S2TError: an unknown trigger, one that needs an LLM in a method that must not have one, or one that needs
    the LLM to have the SLM's vocabulary."""
    if trigger not in TRIGGERS:
        raise unknown_name("trigger", trigger, TRIGGERS)
    choices = ", ".join(LLM_FREE_TRIGGERS)
    if method == "s2t-local" and trigger not in LLM_FREE_TRIGGERS:
        raise S2TError(f"s2t-local runs without an LLM, which the {trigger} trigger needs: choose {choices}")
    if not shared_vocabulary and trigger not in LLM_FREE_TRIGGERS:
        raise S2TError(f"the {trigger} trigger needs an LLM with the SLM's vocabulary: choose {choices}")
