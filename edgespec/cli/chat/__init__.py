"""`edgespec chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import Any

import click

from edgespec import machine
from edgespec.cli.chat.commands import Leave, run_command
from edgespec.cli.chat.keeping import Kept, Memory
from edgespec.cli.chat.screen import Screen
from edgespec.cli.chat.talk import Talk
from edgespec.cli.chat.typing import Piped, Typed
from edgespec.cli.options import model_options, sampling_options, stats_option
from edgespec.errors import EdgespecError


@click.command()
@model_options
@sampling_options
@stats_option
@click.option("--session", metavar="NAME", help="Keep the conversation under this name, and go on with it next time.")
@click.option("--memory", is_flag=True, help="Let the n-gram drafter remember what was said in earlier chats.")
@click.option("--private", is_flag=True, help="Leave nothing on the disk: no history of lines, no memory.")
def chat(**options: Any) -> None:
    """Talk with a model. Ctrl-C stops an answer, Ctrl-D or /exit leaves, /help lists the commands."""
    if options["private"] and (options["session"] or options["memory"]):
        raise click.UsageError("--private keeps nothing: leave out --session and --memory")
    interactive = sys.stdin.isatty()
    data = machine.data_directory()
    if not options["private"]:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is said to a model is nobody else's business
    screen = Screen(footer=interactive)
    kept = Kept(data / "sessions", options["session"]) if options["session"] else None
    memory = Memory(data / "memory.json") if options["memory"] else None
    with Talk(options, screen, kept=kept, memory=memory) as talk:
        if interactive:
            screen.note(f"{talk.engine.model.name}, drafter {talk.engine.drafter_name}. /help lists the commands.")
        lines = Typed(None if options["private"] else data / "history") if interactive else Piped()
        talk.lines = lines
        try:
            while (text := lines.next()) is not None:
                try:
                    if text.startswith("/"):
                        run_command(talk, text)
                    else:
                        talk.say(text)
                except EdgespecError as error:  # what was said so far stays
                    screen.error(str(error))
        except Leave:
            pass
