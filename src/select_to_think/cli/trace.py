"""An answer as a person reads it: triggered steps underlined, flips in colour, and tables of what was weighed.

Without colours the marks are brackets: `[word]` for a triggered step, `[greedy -> choice]` for a flip, `[word: no LLM]`
where the LLM was asked and did not answer. Everything here reads steps as JSON has them
(`evaluation.tracing.step_trace`), so that they may also come from a server, one by one.

Non-goals: making steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from select_to_think.text import visible

Step = Mapping[str, Any]


@dataclass(frozen=True)
class Ending:
    """What is known of an answer when it has ended."""

    finish_reason: str
    method: str
    counts: Mapping[str, int]  # the fields of `Counts`
    votes: Sequence[str] = ()
    trigger: str | None = None
    threshold: float | None = None  # of the trigger's statistic
    tail: str = ""  # text behind the last step: a part of a character


Part = Step | Ending  # of an answer that is being written


TABLE_ROWS = 24
SHOWN_CANDIDATES = 8
SEGMENT_WIDTH = 30  # columns
KEPT = "underline"
FLIPPED = "bold underline magenta"
FAILED = "underline red"  # the LLM was asked and did not answer


def spelt(text: str | None) -> str:
    """A token or a segment on its own, with blanks made visible; nothing for none."""
    if text is None:
        return ""
    return visible(text).strip() or repr(visible(text))


def greedy(step: Step) -> str | None:
    """What the SLM would have written at a triggered step, if that is known."""
    return next((each["text"] for each in step["candidates"] if each["id"] == step["greedy"]), None)


class Marks:
    """Marks the steps of one answer as they come."""

    def __init__(self, *, colours: bool) -> None:
        """Nothing is written yet."""
        self.colours = colours
        self.missing = 0  # characters of a decided segment that are still to come
        self.style, self.bracket = "", ""

    def push(self, step: Step) -> Text:
        """What a step adds; a segment that was decided at a step is marked as a whole."""
        shown, piece = Text(), visible(step["text_added"])
        if (step["fired"] or step["llm_failed"]) and (decided := len(visible(step["text"]).strip())):
            shown.append_text(self.end())
            word = piece.lstrip()
            shown.append(piece[: len(piece) - len(word)])
            shown.append(self.begin(step))
            piece, self.missing = word, decided
        if not self.missing:
            return shown.append(piece)
        shown.append(piece, self.style)
        self.missing -= min(self.missing, len(piece))
        return shown if self.missing else shown.append_text(self.end())

    def begin(self, step: Step) -> str:
        """Choose the mark of a step; what stands before it."""
        if self.colours:
            self.style = FAILED if step["llm_failed"] else FLIPPED if step["flip"] else KEPT
            return ""
        self.bracket = ": no LLM]" if step["llm_failed"] else "]"
        return f"[{spelt(greedy(step))} -> " if step["flip"] else "["

    def end(self) -> Text:
        """Close the mark, if one is open."""
        closed, self.missing, self.bracket = Text(self.bracket), 0, ""
        return closed


def marked(steps: Iterable[Step], *, colours: bool) -> Text:
    """A whole answer with its triggered steps marked."""
    marks = Marks(colours=colours)
    return Text().join([*map(marks.push, steps), marks.end()])


def legend(*, colours: bool) -> Text:
    """What the marks mean."""
    if not colours:
        return Text("[word] triggered step, choice = greedy   [greedy -> choice] flip")
    return Text.assemble(
        ("triggered step", KEPT), ", the choice is the greedy token   ", ("flip", FLIPPED), ", another was chosen"
    )


def weighed(steps: Sequence[Step]) -> Table:
    """A table of the triggered steps: who chose what among which candidates (score, or log-probability, in nats)."""
    table = Table(title="triggered steps", title_justify="left", box=None, pad_edge=False)
    for heading in ("step", "statistic"):
        table.add_column(heading, justify="right", min_width=len(heading))
    for heading in ("greedy", "choice"):
        table.add_column(heading, max_width=SEGMENT_WIDTH)
    table.add_column("by", min_width=len("scorer"))
    table.add_column("candidates: score")
    fired = [step for step in steps if step["fired"]]
    for step in fired[:TABLE_ROWS]:
        table.add_row(
            str(step["index"]),
            number(step["statistic"]),
            spelt(greedy(step)),
            Text(spelt(step["text"]), style=FLIPPED if step["flip"] else ""),
            step["chooser"],
            candidates(step),
        )
    if len(fired) > TABLE_ROWS:
        table.caption = f"{len(fired) - TABLE_ROWS} more; --json has them all"
    return table


def number(value: float | None, digits: int = 3) -> str:
    """A value that may be missing."""
    return "" if value is None else f"{value:.{digits}f}"


def candidates(step: Step) -> str:
    """The best candidates of one step, with what decided between them."""
    by = "logprob" if all(each["score"] is None for each in step["candidates"]) else "score"
    values = [(each["text"], -math.inf if each[by] is None else each[by]) for each in step["candidates"]]
    ranked = sorted(values, key=lambda pair: -pair[1])
    return "  ".join(f"{spelt(text)}: {value:.2f}" for text, value in ranked[:SHOWN_CANDIDATES])


class LiveAnswer:
    """An answer, shown as it is written."""

    def __init__(self) -> None:
        """Nothing is written yet."""
        self.steps: list[Step] = []
        self.ending: Ending | None = None

    @property
    def text(self) -> str:
        """What is written so far."""
        return "".join(step["text_added"] for step in self.steps) + (self.ending.tail if self.ending else "")

    def show(self, console: Console, parts: Iterable[Part], *, marks: bool = True) -> None:
        """Show the parts as they come, and end the line, also where the answer is stopped."""
        marking = Marks(colours=console.color_system is not None)
        try:
            for part in parts:
                if isinstance(part, Ending):
                    self.ending = part
                    console.print(part.tail, end="", soft_wrap=True)
                    continue
                self.steps.append(part)
                console.print(marking.push(part) if marks else part["text_added"], end="", soft_wrap=True)
        finally:
            if self.steps:
                console.print(marking.end(), soft_wrap=True)


def show_result(console: Console, result: Mapping[str, Any]) -> None:
    """A result of `s2t generate --json`: question, marked answer, and what is said behind it."""
    colours = console.color_system is not None
    console.print(result["question"], style="dim", soft_wrap=True)
    console.print(marked(result["steps"], colours=colours), soft_wrap=True)
    show_choices(console, result["steps"], result["votes"], result["finish_reason"])


def show_choices(console: Console, steps: Sequence[Step], votes: Sequence[str], finish_reason: str) -> None:
    """Behind the answer: votes, legend, the table of triggered steps, and whether something is missing."""
    colours = console.color_system is not None
    if votes:
        console.print(f"votes: {', '.join(votes)}", soft_wrap=True)
    if any(step["fired"] for step in steps):
        console.print()
        console.print(legend(colours=colours), style="dim")
        console.print()
        console.print(weighed(steps))
    if finish_reason == "length":
        console.print("the answer was cut off; raise --max-new-tokens", style="yellow")
