"""`edgespec chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from prompt_toolkit.history import History, InMemoryHistory

from edgespec.cli.chat.commands import LeaveChat, NotACommand, run_command
from edgespec.cli.chat.controller import Controller
from edgespec.cli.chat.line_input import Line, PipedInput, TerminalInput, file_history
from edgespec.cli.chat.screen import Screen
from edgespec.cli.inputs import options_from_input
from edgespec.cli.terminal import visible
from edgespec.engine.saved_chats import ChatMemory, SavedChat
from edgespec.errors import EdgespecError
from edgespec.heads.used import used_folder
from edgespec.system import cpu


def run(ctx: click.Context, options: dict[str, Any]) -> None:
    """Run the chat until the user leaves, or until piped input ends."""
    if options["private"]:
        for name in ("session", "memory", "learn"):
            if options[name] and _on_command_line(ctx, name):
                raise click.UsageError(f"--private keeps nothing: leave out --{name}")
            options[name] = None  # from the configuration file, for other chats
    for option in options_from_input(options):
        raise click.UsageError(f"{option} -: a chat reads what you say from standard input: name a file")
    data = cpu.data_directory()
    interactive = sys.stdin.isatty()
    screen = Screen(footer=interactive)
    saved_chat_context: AbstractContextManager[SavedChat | None] = nullcontext()
    if options["session"]:
        saved_chat_context = SavedChat(data / "sessions", options["session"])
    memory = ChatMemory(data / "memory") if options["memory"] else None
    learning = used_folder(data) if options["learn"] else None
    with (
        saved_chat_context as saved_chat,
        Controller(options, screen, saved=saved_chat, memory=memory, learning=learning) as controller,
    ):
        if _on_command_line(ctx, "system") and controller.chat.system != options["system"]:
            controller.chat.system = options["system"]
            screen.note("with the system prompt of --system from now on, not the one of the session")
        lines: PipedInput | TerminalInput = PipedInput()
        if interactive:
            name = visible(controller.engine.model.name, one_line=True)
            screen.note(f"{name}, drafter {controller.engine.drafter_name}. /help lists the commands.")
            screen.note(f"{controller.sampling_in_words}; /set changes it")
            lines = TerminalInput(_history(None if options["private"] else data / "history", screen))
            controller.editor = lines.edit
        without_error = _run_conversation(controller, lines)
    if not (interactive or without_error):
        sys.exit(1)


def _run_conversation(controller: Controller, lines: PipedInput | TerminalInput) -> bool:
    """Answer all lines; returns whether there was no error. Errors are printed, and the conversation goes on."""
    without_error = True
    while True:
        try:
            line = lines.next()
            if line is None:
                break
            _handle_line(controller, line)
        except LeaveChat:
            break
        except NotACommand as error:
            controller.screen.error(str(error))
            lines.keep(error.line)
            without_error = False
        except EdgespecError as error:
            controller.screen.error(str(error))
            without_error = False
        except OSError as error:
            if error.filename is None:  # standard input or output is closed
                raise
            controller.screen.error(f"{error.filename}: {error.strerror}")
            without_error = False
        except KeyboardInterrupt:  # before or after an answer, or the second one during it
            if controller.editor is None:
                raise
            controller.screen.note("[stopped]")
    return without_error


def _handle_line(controller: Controller, line: Line) -> None:
    """Run a command or answer a message. Raises KeyboardInterrupt where piped input was interrupted."""
    before = controller.last
    if line.command:
        run_command(controller, line.text)
    else:
        controller.say(line.text)
    stopped = (
        controller.last is not before and controller.last is not None and controller.last.finish_reason == "cancelled"
    )
    if controller.editor is None and stopped:
        raise KeyboardInterrupt  # no user can go on


def _on_command_line(ctx: click.Context, name: str) -> bool:
    """Whether an option was given on the command line."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _history(path: Path | None, screen: Screen) -> History:
    """The history of typed lines, in the file `path` if it can be used."""
    if path is None:
        return InMemoryHistory()
    try:
        return file_history(path, screen.note)
    except OSError as error:
        screen.note(f"what you type is not kept for the next chat: {error.filename}: {error.strerror}")
        return InMemoryHistory()
