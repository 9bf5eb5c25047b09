"""What a person may type in a chat beside questions: `/method s2t`, `/why 7` ..."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from select_to_think.cli.chat.loop import Loop
from select_to_think.cli.chat.why import show_why
from select_to_think.cli.output import note
from select_to_think.cli.trace import legend, weighed
from select_to_think.methods import find_method
from select_to_think.structures import S2TError, unknown_name
from select_to_think.triggers.table import TRIGGERS, find_trigger

DEFAULT = "default"


@dataclass(frozen=True)
class Command:
    """One command. `names`: what its argument may be, for completion."""

    argument: str
    help: str
    run: Callable[[Loop, str], None]
    names: Callable[[Loop], Iterable[str]] = lambda loop: ()


def method(loop: Loop, name: str) -> None:
    """Choose a method, or show them."""
    methods = loop.chat.methods()
    if not name:
        show_names(loop, methods, loop.method or loop.chat.default)
        return
    if name not in methods:
        find_method(name)  # maj@N for any N
    loop.method = name
    note(f"method: {name}")


def trigger(loop: Loop, name: str) -> None:
    """Choose a trigger, or show them."""
    if not name:
        helps = {kind.name: kind.help for kind in TRIGGERS.values()}
        show_names(
            loop, {DEFAULT: "what the method's paper takes, where it works", **helps}, loop.selection.trigger or DEFAULT
        )
        return
    loop.select(trigger=None if name == DEFAULT else find_trigger(name).name)
    note(f"trigger: {name}")


def budget(loop: Loop, value: str) -> None:
    """Choose the wanted fraction of triggered steps, or show it."""
    if value:
        loop.select(trigger_budget=number(value, float))
    note(f"budget: {loop.selection.trigger_budget:g} of the steps")


def candidates(loop: Loop, value: str) -> None:
    """Choose the number of candidates, or show it."""
    if value:
        loop.select(candidates=number(value, int))
    note(f"candidates: {loop.selection.candidates}")


def why(loop: Loop, value: str) -> None:
    """Show one step of the last answer, or all that triggered."""
    steps = loop.last.steps
    if not steps:
        raise S2TError("there is no answer yet: ask something first")
    if value:
        show_why(loop.console, loop.last, number(value, int))
        return
    if any(step["fired"] for step in steps):
        loop.console.print(weighed(steps))
    note(f"/why N explains step N, from 0 to {len(steps) - 1}, also where nothing triggered")


def example(loop: Loop, _: str) -> None:
    """Ask the next example."""
    chosen = next(loop.next_example)
    loop.console.print(chosen.question, style="dim", soft_wrap=True)
    loop.ask(chosen.question, chosen.answer)


def show_help(loop: Loop, _: str) -> None:
    """All commands, and what the marks mean."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, command in COMMANDS.items():
        table.add_row(f"/{name} {command.argument}", command.help)
    table.add_row("Ctrl-C", "ends an answer")
    table.add_row("Ctrl-D", "leaves")
    loop.console.print(table)
    loop.console.print(legend(colours=loop.console.color_system is not None))


COMMANDS: Mapping[str, Command] = {
    "method": Command(
        "[NAME]", "answer by another method; alone: which there are", method, lambda loop: loop.chat.methods()
    ),
    "trigger": Command("[NAME]", "another trigger; alone: which there are", trigger, lambda loop: [DEFAULT, *TRIGGERS]),
    "budget": Command("[X]", "wanted fraction of triggered steps, 0 to 1", budget),
    "candidates": Command("[K]", "candidates of a triggered step", candidates),
    "why": Command("[N]", "what was weighed at step N of the last answer; alone: at its triggered steps", why),
    "retry": Command("", "the last question again, with the next seed", lambda loop, _: loop.retry()),
    "example": Command("", "a problem that the bundled pair was made for", example),
    "reset": Command("", "forget what was said", lambda loop, _: loop.reset()),
    "help": Command("", "this", show_help),
}


def run_command(loop: Loop, line: str) -> None:
    """Do what a line that begins with a slash says."""
    name, _, argument = line[1:].strip().partition(" ")
    if name not in COMMANDS:
        raise unknown_name("command", f"/{name}", [f"/{known}" for known in COMMANDS])
    if argument and not COMMANDS[name].argument:
        raise S2TError(f"/{name} takes no argument: leave out {argument.strip()!r}")
    COMMANDS[name].run(loop, argument.strip())


def completions(loop: Loop, typed: str) -> list[str]:
    """What the last word of a line that was begun may become."""
    if not typed.startswith("/"):
        return []
    name, blank, argument = typed[1:].partition(" ")
    if not blank:
        return [f"/{known}{' ' if each.argument else ''}" for known, each in COMMANDS.items() if known.startswith(name)]
    return [each for each in COMMANDS[name].names(loop) if each.startswith(argument)] if name in COMMANDS else []


def show_names(loop: Loop, names: Mapping[str, str], chosen: str) -> None:
    """Names with what they mean; the chosen one is marked."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, meaning in names.items():
        table.add_row("*" if name == chosen else "", name, meaning)
    loop.console.print(table)


def number(value: str, kind: Callable[[str], Any]) -> Any:
    """The number that was typed."""
    try:
        return kind(value)
    except ValueError:
        raise S2TError(f"{value!r} is no {'whole ' if kind is int else ''}number") from None
