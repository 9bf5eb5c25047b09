"""The training mix: problems as chat turns and as plain text, single facts, verifier items, general chat.

A document is a list of segments, each with the weight of its tokens in the loss. Only what an assistant (or the author
of plain text) writes is learned; questions are random and would waste a small model's capacity. A verifier item teaches
nothing but its letter, one token in a document where a chain has forty, so that letter weighs more.

Non-goals: tokens and batches (`batches`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from recipe.domains import facts, orderings
from recipe.problems import DOMAINS, stream_puzzles
from recipe.puzzle import CAREFUL, Puzzle
from recipe.verifier_items import Splitter, draw_options
from recipe.writers import Reader, misreadings, tells

Document = list[tuple[str, float]]

VERIFIER_SHARE = 0.05
GIVEN, LEARNED, LETTER = 0.0, 1.0, 8.0
START, END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
DOMAIN_SHARES: Mapping[str, float] = MappingProxyType({"arithmetic": 0.42, "facts": 0.22, "logic": 0.36})
SYSTEM_PROMPTS = ("You are a helpful assistant.", "Think step by step.", "Answer the question of the user.")
SMALL_TALK = (
    ("Hello!", "Hello! What can I do for you?"),
    ("Hi, how are you?", "I am fine, thank you. What can I do for you?"),
    ("Who are you?", "I am a small language model that solves short problems step by step."),
    ("Thank you!", "You are welcome."),
    ("Good morning.", "Good morning! What can I do for you?"),
    ("Goodbye.", "Goodbye!"),
)


@dataclass
class Library:
    """Puzzle streams of the training split, as one reader gets them written."""

    reader: Reader
    rng: Random
    streams: dict[str, Iterator[Puzzle]]
    shares: Mapping[str, float]

    @classmethod
    def open(cls, reader: Reader, seed: int, shares: Mapping[str, float]) -> Library:
        streams = {domain: stream_puzzles(domain, "train", seed) for domain in DOMAINS}
        return cls(reader, Random(f"library {seed}"), streams, shares)

    def problem(self) -> tuple[Puzzle, str]:
        """A puzzle and the chain that some writer gives for it."""
        while True:
            puzzle = next(self.streams[self.draw_domain()])
            misread = self.misreadings(puzzle)
            if tells(self.reader, puzzle, misread):
                return puzzle, puzzle.solve(misread).text

    def draw_domain(self) -> str:
        return self.rng.choices(list(self.shares), list(self.shares.values()))[0]

    def single_fact(self) -> tuple[Puzzle, str]:
        while True:
            puzzle = facts.draw_single(self.rng)
            misread = self.misreadings(puzzle)
            if tells(self.reader, puzzle, misread):
                return puzzle, puzzle.solve(misread).text

    def misreadings(self, puzzle: Puzzle) -> frozenset[int]:
        return misreadings(puzzle, self.rng) if self.reader == "slm" else CAREFUL


def chat(turns: list[tuple[str, str]], system: str | None = None) -> Document:
    """Segments of a conversation, equal to the chat template's text."""
    document: Document = [] if system is None else [(f"{START}system\n{system}{END}\n", GIVEN)]
    for user, assistant in turns:
        document.append((f"{START}user\n{user}{END}\n{START}assistant\n", GIVEN))
        document.append((f"{assistant}{END}", LEARNED))
        document.append(("\n", GIVEN))
    return document


def draw_chat(library: Library, split: Splitter) -> Document:
    """One problem as a chat."""
    puzzle, chain = library.problem()
    return chat([(puzzle.question, chain)])


def draw_system_chat(library: Library, split: Splitter) -> Document:
    """One problem behind a system turn."""
    puzzle, chain = library.problem()
    return chat([(puzzle.question, chain)], system=library.rng.choice(SYSTEM_PROMPTS))


def draw_two_turns(library: Library, split: Splitter) -> Document:
    """Two problems in one conversation."""
    turns = [(puzzle.question, chain) for puzzle, chain in (library.problem(), library.problem())]
    return chat(turns)


def draw_single_fact(library: Library, split: Splitter) -> Document:
    """One fact of the world."""
    puzzle, chain = library.single_fact()
    return chat([(puzzle.question, chain)])


def draw_plain(library: Library, split: Splitter) -> Document:
    """One problem as plain text."""
    puzzle, chain = library.problem()
    return [(f"Question: {puzzle.question}\nAnswer:", GIVEN), (f" {chain}{END_OF_TEXT}", LEARNED)]


def draw_small_talk(library: Library, split: Splitter) -> Document:
    """Greetings."""
    turns = library.rng.sample(SMALL_TALK, library.rng.randint(1, 2))
    return chat(turns, system=library.rng.choice((None, *SYSTEM_PROMPTS)))


def draw_verifier_item(library: Library, split: Splitter) -> Document:
    """Two continuations, one right; the label is right in every reader's text."""
    while True:
        puzzle, _ = library.problem()
        if tells(library.reader, puzzle):
            prompt, label = draw_options(puzzle, library.rng, split)
            asked, (answer, _), after = chat([(prompt, f"My choice: Option ({label})")])
            before, behind = answer.rsplit(label, 1)
            return [asked, (before, LEARNED), (label, LETTER), (behind, LEARNED), after]


def draw_begun_chain(library: Library, split: Splitter) -> Document:
    """A chain that somebody else began, reading one spot as its writer would not; only the consistent rest is
    learned."""
    return begin(library, split, library.draw_domain)


def draw_begun_listing(library: Library, split: Splitter) -> Document:
    """A begun chain that lists an order: somebody else chose the end to list it from."""
    return begin(library, split, lambda: orderings.DOMAIN, kind="direction")


def begin(library: Library, split: Splitter, draw_domain: Callable[[], str], kind: str | None = None) -> Document:
    """A begun chain of a puzzle with spots; of a `kind`, if one is named."""
    while True:
        puzzle = next(library.streams[draw_domain()])
        if not puzzle.spots or (kind and kind not in puzzle.spots):
            continue
        own = library.misreadings(puzzle)
        others = own ^ {library.rng.randrange(len(puzzle.spots))}
        if tells(library.reader, puzzle, others):
            break
    unbegun, begun = split(puzzle.solve(own).text), split(puzzle.solve(others).text)
    parted = next(index for index, (one, other) in enumerate(zip(unbegun, begun, strict=False)) if one != other)
    ((prompt, _), _, after) = chat([(puzzle.question, "")])
    return [(prompt + "".join(begun[: parted + 1]), GIVEN), ("".join(begun[parted + 1 :]) + END, LEARNED), after]


Draw = Callable[[Library, Splitter], Document]
Formats = tuple[tuple[Draw, float], ...]
"""Kinds of documents, each with its weight."""

COMMON_FORMATS: Formats = (
    (draw_single_fact, 0.12),
    (draw_plain, 0.06),
    (draw_system_chat, 0.05),
    (draw_two_turns, 0.03),
    (draw_small_talk, 0.01),
)
FORMATS: Mapping[Reader, Formats] = MappingProxyType(
    {
        "slm": ((draw_chat, 0.73), *COMMON_FORMATS),
        "llm": ((draw_chat, 0.63), (draw_begun_chain, 0.10), *COMMON_FORMATS),
    }
)


def stream_documents(
    reader: Reader,
    seed: int,
    split: Splitter,
    shares: Mapping[str, float] = DOMAIN_SHARES,
    verifier_share: float = VERIFIER_SHARE,
    more_formats: Formats = (),
) -> Iterator[Document]:
    """Endless training documents; the same for the same arguments.

    `shares` weighs the domains; a `verifier_share` of the documents are verifier items; `more_formats` stand beside
    those of the reader, whose weights add up to one.
    """
    library = Library.open(reader, seed, shares)
    formats, weights = zip(*FORMATS[reader], *more_formats, strict=True)
    while True:
        if library.rng.random() < verifier_share:
            yield draw_verifier_item(library, split)
        else:
            yield library.rng.choices(formats, weights)[0](library, split)
