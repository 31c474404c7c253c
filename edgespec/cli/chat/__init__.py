"""`edgespec chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from prompt_toolkit.history import History, InMemoryHistory

from edgespec.cli.chat.commands import Leave, run_command
from edgespec.cli.chat.controller import Controller
from edgespec.cli.chat.line_input import Line, Piped, Typed, kept_history
from edgespec.cli.chat.screen import Screen
from edgespec.engine.saved_chats import ChatMemory, SavedChat
from edgespec.errors import EdgespecError
from edgespec.system import cpu


def run(ctx: click.Context, options: dict[str, Any]) -> None:
    """Talk until the person leaves, or until what is piped in ends."""
    if options["private"]:
        for name in ("session", "memory"):
            if options[name] and _given(ctx, name):
                raise click.UsageError(f"--private keeps nothing: leave out --{name}")
            options[name] = None  # the configuration file's, for other chats
    data = cpu.data_directory()
    interactive = sys.stdin.isatty()
    screen = Screen(footer=interactive)
    kept: AbstractContextManager[SavedChat | None] = nullcontext()
    if options["session"]:
        kept = SavedChat(data / "sessions", options["session"])
    memory = ChatMemory(data / "memory") if options["memory"] else None
    with kept as session, Controller(options, screen, kept=session, memory=memory) as talk:
        if _given(ctx, "system") and talk.chat.system != options["system"]:
            talk.chat.system = options["system"]
            screen.note("with the system prompt of --system from now on, not the one of the session")
        lines: Piped | Typed = Piped()
        if interactive:
            screen.note(f"{talk.engine.model.name}, drafter {talk.engine.drafter_name}. /help lists the commands.")
            lines = Typed(_history(None if options["private"] else data / "history", screen))
            talk.editor = lines.edit
        went_well = _converse(talk, lines)
    if not (interactive or went_well):
        sys.exit(1)


def _converse(talk: Controller, lines: Piped | Typed) -> bool:
    """Answer all lines; whether there was no error. An error is told, and what was said so far stays."""
    went_well = True
    while True:
        try:
            line = lines.next()
            if line is None:
                break
            _do(talk, line)
        except Leave:
            break
        except EdgespecError as error:
            talk.screen.error(str(error))
            went_well = False
        except OSError as error:
            if error.filename is None:  # our own input or output is gone
                raise
            talk.screen.error(f"{error.filename}: {error.strerror}")
            went_well = False
        except KeyboardInterrupt:  # a moment before an answer, after it, or the second one during it
            if talk.editor is None:
                raise
            talk.screen.note("[stopped]")
    return went_well


def _do(talk: Controller, line: Line) -> None:
    before = talk.last
    if line.command:
        run_command(talk, line.text)
    else:
        talk.say(line.text)
    stopped = talk.last is not before and talk.last is not None and talk.last.finish_reason == "cancelled"
    if talk.editor is None and stopped:
        raise KeyboardInterrupt  # nobody is there to go on


def _given(ctx: click.Context, name: str) -> bool:
    """Whether an option stands on the command line itself."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _history(path: Path | None, screen: Screen) -> History:
    """What was typed before, where there is a file for it."""
    if path is None:
        return InMemoryHistory()
    try:
        return kept_history(path, screen.note)
    except OSError as error:
        screen.note(f"what you type is not kept for the next chat: {error.filename}: {error.strerror}")
        return InMemoryHistory()
