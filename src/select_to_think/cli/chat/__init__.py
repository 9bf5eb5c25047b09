"""`s2t chat`: ask one question after the other, and see each answer decide as it is written.

Talks to a pair in this process, or to a running server.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from select_to_think.cli.chat.commands import completions, converse
from select_to_think.cli.chat.dialogue import KEY_VARIABLE, SINGLE, Dialogue
from select_to_think.cli.chat.lines import lines
from select_to_think.cli.options import Only, name_option
from select_to_think.cli.output import Reply, console, note
from select_to_think.config import DecodeConfig, MentorConfig, MethodSettings, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.methods import METHODS
from select_to_think.structures import S2TError

if TYPE_CHECKING:
    from select_to_think.cli.chat.dialogue import Chat

ALTERNATIVES = 8  # tokens that /why shows where nothing triggered

Decoding = Annotated[
    DecodeConfig,
    Only(("max_new_tokens", "temperature", "top_p", "seed", "on_llm_failure"), (("on_llm_failure", "continue"),)),
]
Method = Annotated[
    str | None,
    name_option(
        "How to decode; N in maj@N is any number (default: s2t-local, or that of the server).",
        METHODS,
        metavar="NAME",
        rich_help_panel="Selection",
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help=f"Ask a running server (http://host:port) instead of loading a pair; its key is read from {KEY_VARIABLE}.",
        rich_help_panel="Models",
    ),
]


def chat(
    pair: PairConfig,
    decode: Decoding,
    select: SelectConfig,
    mentor: MentorConfig,
    runtime: RuntimeConfig,
    method: Method = None,
    url: Url = None,
) -> Reply:
    """Ask one question after the other, typed or one a line from a pipe; /help tells more.

    Answers appear as they are written, their triggered steps and flips marked; /why N shows what was weighed at a step.
    Into a pipe go the answers alone.
    """
    settings = MethodSettings(decode, select, mentor, alternatives=ALTERNATIVES)
    asked = choose(pair, runtime, url)

    def talk(screen: Console) -> Dialogue:
        interactive = sys.stdin.isatty()
        dialogue = Dialogue(asked, method, settings, screen, interactive=interactive)
        if interactive:
            note(f"{asked.name}, {method or asked.default}; /help tells what can be typed, Ctrl-D leaves")
        if dialogue.examples:
            note(SINGLE)
        with closing(lines(lambda typed: completions(dialogue, typed))) as given:
            converse(dialogue, given)
        return dialogue

    return Reply(lambda: {"schema": 1, "answers": talk(console(sys.stdout)).results}, talk)


def choose(pair: PairConfig, runtime: RuntimeConfig, url: str | None) -> Chat:
    """What to talk to.

    Raises:
        S2TError: a server is named and something that is its own business, or it does not answer.
    """
    if url is None:
        from select_to_think.cli.chat.local import LocalChat
        from select_to_think.session import Session

        return LocalChat(Session.load(pair, runtime))
    from select_to_think.cli.chat.remote import RemoteChat, changed

    for name in (*changed(pair), *changed(runtime)):
        raise S2TError(f"the server of --url has models and memory of its own: leave out --{name.replace('_', '-')}")

    return RemoteChat(url, os.environ.get(KEY_VARIABLE))
