"""Labelled cases of the graders, and phrasings that wrap a gold answer into a solution."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "grading"

NUMBER_PHRASINGS = (
    "#### {}", "Some steps.\n#### {}", "The answer is {}.", "The final answer is ${}$.", "So \\boxed{{{}}}.",
    "$\\boxed{{{}}}$", "**Answer: {}**", "Answer: {}", "She has 3 + 4 = 7 left. Therefore, the answer is **{}**.",
    "2 * 5 = 10, so in total {}", "The answer is ${} per day.", "the answer is {} apples", "= {}",
    "The answer is: {}\n\nI hope this helps!", "Thus it is \\boxed{{{} \\text{{ dollars}}}}",
    "The answer is not 987654 but {}.", "The final answer is {}.00" , "{}",
    "The answer is {}.\n\nQuestion: What is 2+2?\nThe answer is 4.",
)  # fmt: skip
MATH_PHRASINGS = (
    "So we get $\\boxed{{{}}}$.", "The final answer is ${}$. I hope it is correct.", "Thus the answer is:\n\\[{}\\]",
    "Therefore\n\n$$\\boxed{{{}}}$$", "**Final Answer**\n\\[ \\boxed{{{}}} \\]",
)  # fmt: skip
CHOICE_PHRASINGS = (
    "The answer is ({letter}).", "The answer is {letter}.", "**Answer: {letter}**", "\\boxed{{{letter}}}", "{letter}",
    "({letter}) {text}", "{letter}. {text}", "The correct answer is option {letter}.", "Answer: {lower}",
    "I think that this is so.\n\n{letter}", "The answer is {letter}: {text}", "Option {letter} is correct.",
    "A: no. B: no.\nThe answer is **{letter}**.", "<think>The answer is A.</think>The answer is {letter}",
)  # fmt: skip
BOOL_PHRASINGS = (
    "The answer is {}.", "**Answer: {}**", "{}", "{}, because it is so.", "Some facts.\n\n{}", "So the answer is {}",
    "\\boxed{{{}}}", "Therefore the final answer is {}. I hope this helps.",
)  # fmt: skip


def lines(name: str) -> Iterator[str]:
    """The lines of a table without comments."""
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("# "):
            yield line


def text_of(field: str) -> str:
    """A field with its escapes read: \\n is a line break, \\\\ a backslash."""
    return field.replace("\\\\", "\x00").replace("\\n", "\n").replace("\x00", "\\")
