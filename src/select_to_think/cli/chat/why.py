"""Why one token of an answer stands there: what was weighed, and the trigger's statistic against its threshold."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from select_to_think.cli.trace import FLIPPED, LiveAnswer, Step, number, spelt
from select_to_think.structures import S2TError
from select_to_think.text import visible

ROLES = {"chosen": "token", "greedy": "greedy", "the LLM's best": "llm_top"}  # what a candidate may be of a step
NEIGHBOURS = 6  # tokens shown before and behind the one in question


def show_why(console: Console, answer: LiveAnswer, index: int) -> None:
    """One step of an answer. Raises S2TError for one that it does not have."""
    if not 0 <= index < len(answer.steps):
        raise S2TError(f"the answer has no step {index}: choose one from 0 to {len(answer.steps) - 1}")
    step = answer.steps[index]
    console.print(surroundings(answer.steps, index), soft_wrap=True)
    console.print(reason(answer, step), soft_wrap=True)
    options = step["candidates"] or step["alternatives"]
    if not options:
        return
    table = Table(box=None, pad_edge=False)
    scored = any(option.get("score") is not None for option in options)
    for heading in ("rank", "token", "SLM probability", *(("score",) if scored else ()), ""):
        table.add_column(heading, justify="left" if heading in ("token", "") else "right")
    for rank, option in enumerate(options, start=1):
        chosen = option["id"] == step["token"]
        told = [word for word, key in ROLES.items() if step[key] == option["id"]]
        table.add_row(
            str(rank),
            Text(spelt(option["text"]), style=FLIPPED if chosen and step["flip"] else ""),
            percent(option["logprob"]),
            *((number(option["score"]),) if scored else ()),
            ", ".join(told),
        )
    console.print(table)


def surroundings(steps: list[Step], index: int) -> Text:
    """The token between its neighbours."""
    first, last = max(0, index - NEIGHBOURS), min(len(steps), index + NEIGHBOURS + 1)
    before, here, behind = (
        visible("".join(step["text_added"] for step in part))
        for part in (steps[first:index], steps[index : index + 1], steps[index + 1 : last])
    )
    blank = here[: len(here) - len(here.lstrip())]
    start, end = "" if first == 0 else "... ", "" if last == len(steps) else " ..."
    return Text.assemble(start, before, blank, ("[", "dim"), (here.lstrip(), "bold"), ("]", "dim"), behind, end)


def reason(answer: LiveAnswer, step: Step) -> str:
    """Statistic and threshold, and who chose."""
    where = f"step {step['index']}, token {step['token']}"
    choice = f"chosen by the {step['chooser'] if step['chooser'] == 'scorer' else step['chooser'].upper()}"
    if step["llm_failed"]:
        choice = "the LLM did not answer, so the SLM's own choice stands"
    ending = answer.ending
    if step["statistic"] is None:
        return f"{where}: {'' if step['fired'] or step['llm_failed'] else 'no trigger here; '}{choice}"
    trigger = "statistic" if ending is None or ending.trigger is None else ending.trigger
    if ending is None or ending.threshold is None:
        compared = f"{trigger} {step['statistic']:.3f}"
    else:
        sign = ">" if step["fired"] else "<="
        compared = f"{trigger} {step['statistic']:.3f} {sign} {ending.threshold:.3f}"
    if step["fired"]:
        return f"{where}: {compared}, so it triggered; {choice}"
    return f"{where}: {compared}, so it did not trigger; the greedy token stands"


def percent(logprob: float | None) -> str:
    """A probability as a person reads it."""
    return "0.0 %" if logprob is None else f"{100 * math.exp(logprob):.1f} %"
