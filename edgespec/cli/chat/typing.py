"""Where the lines of a chat come from: a terminal with history and completion, or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from edgespec.cli.chat.commands import COMMANDS, SETTINGS, TAKES_A_PATH

QUOTE = '"""'
"""Begins and ends a message of several lines."""


class Piped:
    """Lines of standard input; empty ones are left out."""

    interactive = False

    def next(self, default: str = "") -> str | None:
        """The next message; None at the end. `default` is for a person to change, and here is nobody."""
        for line in sys.stdin:
            if text := _whole(line, lambda: next(sys.stdin, None)).strip():
                return text
        return None


class Typed:
    """Lines that a person types. `history`: the file that keeps them, readable for its owner alone; None: no file."""

    interactive = True

    def __init__(self, history: Path | None) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(history), completer=_Commands(), complete_while_typing=False, key_bindings=_keys(),
            prompt_continuation="… ",
        )  # fmt: skip

    def next(self, default: str = "") -> str | None:
        """The next message, begun as `default`; None at the end (Ctrl-D)."""
        while True:
            try:
                line = self._session.prompt("> ", default=default)
                if text := _whole(line, lambda: self._session.prompt("… ")).strip():
                    return text
            except KeyboardInterrupt:  # Ctrl-C clears what is being typed
                default = ""
            except EOFError:
                return None


def _whole(line: str, more: Callable[[], str | None]) -> str:
    """A message that begins with QUOTE goes on, line by line, to the next one."""
    text = line.strip()
    if not text.startswith(QUOTE):
        return text
    text = text[len(QUOTE) :]
    while QUOTE not in text:
        following = more()
        if following is None:
            return text
        text += "\n" + following.rstrip("\n")
    return text[: text.index(QUOTE)]


def _history(path: Path | None) -> History:
    if path is None:
        return InMemoryHistory()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    return FileHistory(str(path))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class _Commands(Completer):
    """Tab completes the names of commands, what can be set, and paths."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        typed = document.text_before_cursor
        if not typed.startswith("/"):
            return
        name, space, rest = typed.partition(" ")
        names: Iterable[str]
        if not space:
            names = COMMANDS
        elif name == "/set" and " " not in rest:
            names, typed = SETTINGS, rest
        elif name in TAKES_A_PATH:
            yield from self._paths.get_completions(Document(rest), complete_event)
            return
        else:
            return
        for one in sorted(names):
            if one.startswith(typed):
                yield Completion(one, start_position=-len(typed))
