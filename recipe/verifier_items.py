"""Items that ask which of two continuations of a chain is right, in the default wording of `MentorConfig`.

The wrong option is a misreading of the puzzle where it has a spot, otherwise the right text with one word replaced. The
options start at the first word that differs, as they do where two models disagree.

Non-goals: the verifier itself, which reads the two letters' probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from recipe.puzzle import Puzzle
from recipe.world import NAMES, WEEKDAYS, build_world

Splitter = Callable[[str], list[str]]
"""Cuts text into the tokenizer's pieces, whose concatenation is the text."""

OPTION_TOKENS = 16
MISREAD_SHARE = 0.8
INSTRUCTION = "Which option goes on correctly?"


def draw_options(puzzle: Puzzle, rng: Random, split: Splitter) -> tuple[str, str]:
    """The user's turn and the letter of the right option."""
    right = split(puzzle.solve().text)
    wrong = _misread(puzzle, rng, split) if puzzle.spots and rng.random() < MISREAD_SHARE else None
    if wrong is None:
        wrong = _replace_one_word(right, rng)
    shared = next(index for index, (one, other) in enumerate(zip(right, wrong, strict=False)) if one != other)
    start = max(index for index in range(shared + 1) if index == 0 or right[index].startswith(" "))
    texts = ["".join(pieces[start : start + OPTION_TOKENS]) for pieces in (right, wrong)]
    label = rng.choice("AB")
    first, second = texts if label == "A" else texts[::-1]
    prompt = f"{puzzle.question}\n{''.join(right[:start])}\n{INSTRUCTION}\nOption (A):{first}\nOption (B):{second}\n"
    return prompt, label


def _misread(puzzle: Puzzle, rng: Random, split: Splitter) -> list[str] | None:
    wrong = split(puzzle.solve(frozenset([rng.randrange(len(puzzle.spots))])).text)
    return wrong if wrong != split(puzzle.solve().text) else None


def _replace_one_word(pieces: list[str], rng: Random) -> list[str]:
    """The pieces with one number, operator or name exchanged for another of its kind."""
    kinds = [_alternatives(piece) for piece in pieces]
    index = rng.choice([index for index, kind in enumerate(kinds) if kind])
    word = rng.choice([word for word in kinds[index] if f" {word}" != pieces[index]])
    return [*pieces[:index], f" {word}", *pieces[index + 1 :]]


def _alternatives(piece: str) -> tuple[str, ...]:
    word = piece.removeprefix(" ")
    if word.isdigit():
        return tuple(str(number) for number in range(max(0, int(word) - 10), min(199, int(word) + 10) + 1))
    for kind in (("+", "-", "*", "/"), NAMES, WEEKDAYS, build_world().people):
        if piece.startswith(" ") and word in kind:
            return kind
    return ()
