"""What a person may type in a chat: questions, and commands such as `/method s2t` and `/why 7`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from select_to_think.cli.chat.dialogue import Dialogue
from select_to_think.cli.chat.why import show_why
from select_to_think.cli.command import explain, print_error
from select_to_think.cli.output import note
from select_to_think.cli.tables import show_facts
from select_to_think.cli.trace import legend, weighed
from select_to_think.methods import find_method
from select_to_think.structures import S2TError
from select_to_think.text import unknown_name
from select_to_think.triggers.table import TRIGGERS, find_trigger

DEFAULT = "default"


@dataclass(frozen=True)
class Command:
    """One command. `names`: what its argument may be, for completion."""

    argument: str
    help: str
    run: Callable[[Dialogue, str], None]
    names: Callable[[Dialogue], Iterable[str]] = lambda dialogue: ()


def method(dialogue: Dialogue, name: str) -> None:
    """Choose a method, or show them."""
    methods = dialogue.chat.methods()
    if not name:
        show_names(dialogue, methods, dialogue.method or dialogue.chat.default)
        return
    if name not in methods:
        find_method(name)  # maj@N for any N
    dialogue.method = name
    note(f"method: {name}")


def trigger(dialogue: Dialogue, name: str) -> None:
    """Choose a trigger, or show them."""
    if not name:
        helps = {kind.name: kind.help for kind in TRIGGERS.values()}
        show_names(
            dialogue,
            {DEFAULT: "what the method's paper takes, where it works", **helps},
            dialogue.settings.select.trigger or DEFAULT,
        )
        return
    dialogue.select(trigger=None if name == DEFAULT else find_trigger(name).name)
    note(f"trigger: {name}")


def budget(dialogue: Dialogue, value: str) -> None:
    """Choose the wanted fraction of triggered steps, or show it."""
    if value:
        dialogue.select(trigger_budget=number(value, float))
    note(f"budget: {dialogue.settings.select.trigger_budget:g} of the steps")


def candidates(dialogue: Dialogue, value: str) -> None:
    """Choose the number of candidates, or show it."""
    if value:
        dialogue.select(candidates=number(value, int))
    note(f"candidates: {dialogue.settings.select.candidates}")


def why(dialogue: Dialogue, value: str) -> None:
    """Show one step of the last answer, or all that triggered."""
    steps = dialogue.last.steps
    if not steps:
        raise S2TError("there is no answer yet: ask something first")
    if value:
        show_why(dialogue.console, dialogue.last, number(value, int))
        return
    if any(step["fired"] for step in steps):
        dialogue.console.print(weighed(steps))
    note(f"/why N explains step N, from 0 to {len(steps) - 1}, also where nothing triggered")


def example(dialogue: Dialogue, _: str) -> None:
    """Ask the next example."""
    chosen = next(dialogue.next_example)
    dialogue.console.print(chosen.question, style="dim", soft_wrap=True)
    dialogue.ask(chosen.question, chosen.answer)


def show_help(dialogue: Dialogue, _: str) -> None:
    """All commands, and what the marks mean."""
    helps = {f"/{name} {command.argument}": command.help for name, command in COMMANDS.items()}
    show_facts(dialogue.console, {**helps, "Ctrl-C": "ends an answer", "Ctrl-D": "leaves"})
    dialogue.console.print(legend(colours=dialogue.console.color_system is not None))


COMMANDS: Mapping[str, Command] = {
    "method": Command(
        "[NAME]", "answer by another method; alone: which there are", method, lambda dialogue: dialogue.chat.methods()
    ),
    "trigger": Command(
        "[NAME]", "another trigger; alone: which there are", trigger, lambda dialogue: [DEFAULT, *TRIGGERS]
    ),
    "budget": Command("[X]", "wanted fraction of triggered steps, 0 to 1", budget),
    "candidates": Command("[K]", "candidates of a triggered step", candidates),
    "why": Command("[N]", "what was weighed at step N of the last answer; alone: at its triggered steps", why),
    "retry": Command("", "the last question again, with the next seed", lambda dialogue, _: dialogue.retry()),
    "example": Command("", "a problem that the bundled pair was made for", example),
    "reset": Command("", "forget what was said", lambda dialogue, _: dialogue.reset()),
    "help": Command("", "this", show_help),
}


def converse(dialogue: Dialogue, lines: Iterable[str]) -> None:
    """Take line after line. Where a person types, a mistake is told and Ctrl-C ends an answer, and it goes on."""
    for line in lines:
        try:
            take(dialogue, line)
        except KeyboardInterrupt:
            if not dialogue.interactive:
                raise
            note("stopped")
        except Exception as error:
            explained = explain(error)
            if explained is None or not dialogue.interactive:
                raise
            print_error(explained)


def take(dialogue: Dialogue, line: str) -> None:
    """Ask a question, or do what a line that begins with a slash says."""
    if not line.startswith("/"):
        if question := line.strip():
            dialogue.ask(question)
        return
    name, _, argument = line[1:].strip().partition(" ")
    if name not in COMMANDS:
        raise unknown_name("command", f"/{name}", [f"/{known}" for known in COMMANDS])
    if argument and not COMMANDS[name].argument:
        raise S2TError(f"/{name} takes no argument: leave out {argument.strip()!r}")
    COMMANDS[name].run(dialogue, argument.strip())


def completions(dialogue: Dialogue, typed: str) -> list[str]:
    """What the last word of a line that was begun may become."""
    if not typed.startswith("/"):
        return []
    name, blank, argument = typed[1:].partition(" ")
    if not blank:
        return [f"/{known}{' ' if each.argument else ''}" for known, each in COMMANDS.items() if known.startswith(name)]
    return [each for each in COMMANDS[name].names(dialogue) if each.startswith(argument)] if name in COMMANDS else []


def show_names(dialogue: Dialogue, names: Mapping[str, str], chosen: str) -> None:
    """Names with what they mean; the chosen one is marked."""
    show_facts(dialogue.console, {f"{'*' if name == chosen else ' '}  {name}": names[name] for name in names})


def number(value: str, kind: Callable[[str], Any]) -> Any:
    """The number that was typed."""
    try:
        return kind(value)
    except ValueError:
        raise S2TError(f"{value!r} is no {'whole ' if kind is int else ''}number") from None
