"""Where the lines of a chat come from: a terminal with history and completion, or a pipe."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from edgespec.cli.chat.commands import COMMANDS, SETTINGS, TAKES_A_PATH
from edgespec.drafters import KNOWN
from edgespec.hub.catalogue import entries

QUOTE = '"""'
"""Begins and ends a message of several lines."""

_COMMAND = re.compile(r"/[a-z?]+(\s|$)")


class Line(NamedTuple):
    """What a person said. `command`: in one line, without quotes, and as commands look: no path, no comment of C."""

    text: str
    command: bool


class Piped:
    """Lines of standard input; empty ones are left out."""

    def next(self) -> Line | None:
        """The next message; None at the end."""
        for line in sys.stdin:
            if (said := _whole(line, lambda: next(sys.stdin, None))).text:
                return said
        return None


class Typed:
    """Lines that a person types."""

    def __init__(self, history: History) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=history, completer=_Commands(), complete_while_typing=False, key_bindings=_keys(),
            prompt_continuation="… ",
            output=create_output(None if sys.stdout.isatty() else sys.stderr),  # in `chat > answers.txt`, no prompts
        )  # fmt: skip

    def next(self) -> Line | None:
        """The next message; None at the end (Ctrl-D)."""
        while True:
            try:
                said = _whole(self._session.prompt("> "), lambda: self._session.prompt("… "))
            except KeyboardInterrupt:  # Ctrl-C clears what is being typed
                continue
            except EOFError:
                return None
            if said.text:
                return said

    def edit(self, text: str) -> str | None:
        """`text` as the person changed it; None where nothing is left of it, or they gave up (Ctrl-C, Ctrl-D)."""
        try:
            return self._session.prompt("> ", default=text).strip() or None
        except (KeyboardInterrupt, EOFError):
            return None


def kept_history(path: Path, tell: Callable[[str], None]) -> History:
    """What was typed in other chats, in a file that is readable for its owner alone. Raises OSError.

    `tell` is told if the file can no longer be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is said to a model is nobody else's business
    path.touch(mode=0o600)
    return _History(path, tell)


class _History(FileHistory):
    """A full disk, or bytes that are no text, end no chat."""

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        super().__init__(str(path))
        self._tell = tell
        self._writable = True

    def store_string(self, string: str) -> None:
        if self._writable:
            try:
                super().store_string(string.encode(errors="replace").decode())
            except OSError as error:
                self._writable = False
                self._tell(f"what you type from now on is not kept for the next chat: {error.strerror}")


def _whole(line: str, more: Callable[[], str | None]) -> Line:
    """A message that begins with QUOTE goes on, line by line, to the first that ends with it.

    Where text follows the second QUOTE in the first line already, or in what was pasted with it (a file of Python that
    begins with a docstring), they are not around the message but in it.
    """
    text = line.strip()
    if not text.startswith(QUOTE):
        return Line(text, "\n" not in text and _COMMAND.match(text) is not None)
    lines = [text.removeprefix(QUOTE)]
    if QUOTE in lines[0].removesuffix(QUOTE):
        return Line(text, command=False)
    while not lines[-1].rstrip().endswith(QUOTE):
        following = more()
        if following is None:
            break
        lines.append(following.rstrip("\r\n"))
    return Line("\n".join(lines).rstrip().removesuffix(QUOTE).strip(), command=False)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-x", "c-e")  # prompt_toolkit's own would send the text as soon as the editor ends
    def _editor(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return keys


class _Commands(Completer):
    """Tab completes commands, what can be set, models and drafters by name, and paths."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        typed = document.text_before_cursor
        if not typed.startswith("/"):
            return
        *before, begun = typed.split(" ")
        for one in sorted(_choices(before)):
            if one.startswith(begun):
                yield Completion(one, start_position=-len(begun))
        if before and before[0] in TAKES_A_PATH:
            path = typed.removeprefix(before[0]).lstrip(" ")
            yield from self._paths.get_completions(Document(path), complete_event)


def _choices(before: list[str]) -> Iterable[str]:
    """What may come after these words."""
    match before:
        case []:
            return COMMANDS
        case ["/set"]:
            return SETTINGS
        case ["/set", name] if name in SETTINGS and ((option := SETTINGS[name]) is None or option.is_flag):
            return ("on", "off")
        case ["/draft"]:
            return ("on", "off")
        case ["/model"]:
            return entries()
        case ["/drafter"]:
            return ("auto", "none", *KNOWN, *entries())
    return ()
