"""An answer as a person reads it: triggered steps underlined, flips in colour, and a table of what was weighed.

Without colours the marks are brackets: `[word]` for a triggered step, `[greedy -> choice]` for a flip.

Non-goals: the JSON form of a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from select_to_think.structures import Generation, StepRecord, visible

Decode = Callable[[Sequence[int]], str]

TABLE_ROWS = 24
SHOWN_CANDIDATES = 8
KEPT = "underline"
FLIPPED = "bold underline magenta"


def spelt(decode: Decode, tokens: Sequence[int]) -> str:
    """A token or a segment on its own, with blanks made visible."""
    text = visible(decode(tokens))
    return text.strip() or (repr(text) if tokens else "")


def greedy(step: StepRecord) -> Sequence[int]:
    """What the SLM would have written at a triggered step."""
    if step.segments and step.candidates[0] == step.greedy_token:
        return step.segments[0]
    return () if step.greedy_token is None else (step.greedy_token,)


def marked(generation: Generation, decode: Decode, *, colours: bool) -> Text:
    """The answer with its triggered steps marked."""
    from select_to_think.evaluation.tracing import pieces

    answer = Text()
    texts = pieces(decode, generation.tokens)
    end = 0
    for index, step in enumerate(generation.steps):
        if index < end:
            continue
        end = index + (len(step.decided) if step.fired else 1)
        piece = visible("".join(texts[index:end]))
        blank, word = piece[: len(piece) - len(piece.lstrip())], piece.lstrip()
        answer.append(blank)
        if not step.fired or not word:
            answer.append(word)
        elif colours:
            answer.append(word, style=FLIPPED if step.flip else KEPT)
        elif step.flip:
            answer.append(f"[{spelt(decode, greedy(step))} -> {word}]")
        else:
            answer.append(f"[{word}]")
    return answer


def legend(*, colours: bool) -> Text:
    """What the marks mean."""
    if not colours:
        return Text("[word] triggered step, choice = greedy   [greedy -> choice] flip")
    return Text.assemble(
        ("triggered step", KEPT), ", the choice is the greedy token   ", ("flip", FLIPPED), ", another was chosen"
    )


def weighed(generation: Generation, decode: Decode) -> Table:
    """A table of the triggered steps: who chose what among which candidates (score, or log-probability, in nats)."""
    table = Table(title="triggered steps", title_justify="left", box=None, pad_edge=False)
    for heading in ("step", "statistic", "greedy", "choice", "by"):
        table.add_column(
            heading, justify="right" if heading in ("step", "statistic") else "left", no_wrap=True, max_width=40
        )
    table.add_column("candidates: score")
    fired = [(index, step) for index, step in enumerate(generation.steps) if step.fired]
    for index, step in fired[:TABLE_ROWS]:
        statistic = "" if step.statistic is None else f"{step.statistic:.3f}"
        choice = Text(spelt(decode, step.decided), style=FLIPPED if step.flip else "")
        table.add_row(
            str(index),
            statistic,
            Text(spelt(decode, greedy(step))),
            choice,
            step.chooser,
            candidates(step, decode),
        )
    if len(fired) > TABLE_ROWS:
        table.caption = f"{len(fired) - TABLE_ROWS} more; --json has them all"
    return table


def candidates(step: StepRecord, decode: Decode) -> Text:
    """The best candidates of one step, with what decided between them."""
    values = step.scores or step.candidate_logprobs
    ranked = sorted(zip(step.candidates, values, strict=True), key=lambda pair: -pair[1])
    return Text("  ".join(f"{spelt(decode, [token])}: {value:.2f}" for token, value in ranked[:SHOWN_CANDIDATES]))


def show_generation(console: Console, question: str, generation: Generation, decode: Decode) -> None:
    """Question, marked answer, legend, and the table of triggered steps."""
    colours = console.color_system is not None
    console.print(Text(visible(question), style="dim"), soft_wrap=True)
    console.print(marked(generation, decode, colours=colours), soft_wrap=True)
    if generation.votes:
        console.print(Text(visible(f"votes: {', '.join(generation.votes)}")), soft_wrap=True)
    if generation.fired_count:
        console.print()
        console.print(legend(colours=colours), style="dim")
        console.print()
        console.print(weighed(generation, decode))
    if generation.finish_reason == "length":
        console.print(Text("the answer was cut off; raise --max-new-tokens", style="yellow"))
