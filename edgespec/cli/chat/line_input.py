"""The input of a chat: a terminal with history and completion, or a pipe."""

from __future__ import annotations

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

from edgespec.cli.chat.commands import CHAT_COMMANDS, QUOTE, SETTINGS, TAKES_A_PATH, is_command
from edgespec.drafters import KNOWN
from edgespec.hub.catalogue import entries


class Line(NamedTuple):
    """A message or a command."""

    text: str
    command: bool


class PipedInput:
    """Reads messages from standard input; empty lines are skipped."""

    def next(self) -> Line | None:
        """The next message; None at the end."""
        for line in sys.stdin:
            if (message := _read_message(line, lambda: next(sys.stdin, None))).text:
                return message
        return None

    def keep(self, line: str) -> None:
        """Nothing: who piped a line cannot edit it."""


class TerminalInput:
    """Reads messages that the user types in a terminal."""

    def __init__(self, history: History) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=history, completer=_CommandCompleter(), complete_while_typing=False, key_bindings=_key_bindings(),
            prompt_continuation="… ",
            output=create_output(None if sys.stdout.isatty() else sys.stderr),  # no prompts in `chat > answers.txt`
        )  # fmt: skip
        self._kept = ""

    def keep(self, line: str) -> None:
        """Let the user edit `line` at the next prompt."""
        self._kept = line

    def next(self) -> Line | None:
        """The next message; None at the end (Ctrl-D)."""
        while True:
            try:
                kept, self._kept = self._kept, ""
                typed = self._session.prompt("> ", default=kept)
                message = _read_message(typed, lambda: self._session.prompt("… "))
            except KeyboardInterrupt:  # Ctrl-C clears what is being typed
                continue
            except EOFError:
                return None
            if message.text:
                return message

    def edit(self, text: str) -> str | None:
        """`text` as the user edited it; None where it is empty or the user cancelled (Ctrl-C, Ctrl-D)."""
        try:
            return self._session.prompt("> ", default=text).strip() or None
        except (KeyboardInterrupt, EOFError):
            return None


def file_history(path: Path, on_error: Callable[[str], None]) -> History:
    """The history of typed lines in a file that is readable by its owner alone. Raises OSError.

    `on_error` gets a message when the file can no longer be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # private: what a user writes to a model
    path.touch(mode=0o600)
    return _SafeHistory(path, on_error)


class _SafeHistory(FileHistory):
    """A history in which a full disk or invalid text ends no chat."""

    def __init__(self, path: Path, on_error: Callable[[str], None]) -> None:
        super().__init__(str(path))
        self._on_error = on_error
        self._writable = True

    def store_string(self, string: str) -> None:
        if self._writable:
            try:
                super().store_string(string.encode(errors="replace").decode())
            except OSError as error:
                self._writable = False
                self._on_error(f"what you type from now on is not kept for the next chat: {error.strerror}")


def _read_message(line: str, more: Callable[[], str | None]) -> Line:
    """Read a message: one that starts with QUOTE continues to the first line that ends with it.

    Where text follows the second QUOTE in the first line already, or in what was pasted with it (a file of Python that
    begins with a docstring), they are not around the message but in it.
    """
    text = line.strip()
    if not text.startswith(QUOTE):
        return Line(text, is_command(text))
    lines = [text.removeprefix(QUOTE)]
    if QUOTE in lines[0].removesuffix(QUOTE):
        return Line(text, command=False)
    while not lines[-1].rstrip().endswith(QUOTE):
        following = more()
        if following is None:
            break
        lines.append(following.rstrip("\r\n"))
    return Line("\n".join(lines).rstrip().removesuffix(QUOTE).strip(), command=False)


def _key_bindings() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-x", "c-e")  # prompt_toolkit's own would send the text as soon as the editor ends
    def _editor(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return keys


class _CommandCompleter(Completer):
    """Completes commands, settings, aliases of models, drafters, and paths."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        typed = document.text_before_cursor
        if not typed.startswith("/"):
            return
        *before, incomplete = typed.split(" ")
        for choice in sorted(_choices(before)):
            if choice.startswith(incomplete):
                yield Completion(choice, start_position=-len(incomplete))
        if before and before[0] in TAKES_A_PATH:
            path = typed.removeprefix(before[0]).lstrip(" ")
            yield from self._paths.get_completions(Document(path), complete_event)


def _choices(before: list[str]) -> Iterable[str]:
    """The words that may follow `before`."""
    match before:
        case []:
            return CHAT_COMMANDS
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
