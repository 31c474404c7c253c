"""Everything that is printed: text of files, models and people reaches a terminal without commands for it.

A control character can clear the screen, set the title or answer a question in the user's name, and a bidirectional
override shows text in another order than it has. Nothing else in `edgespec.cli` writes to standard output or error.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from typing import IO, Any

import click

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 without tab and line feed, DEL, C1, and the bidirectional embeddings, overrides and isolates."""


def visible(text: str, *, one_line: bool = False) -> str:
    """`text` with its control characters spelled: ESC as `^[`, U+009B as `<U+009B>`. Tabs and line ends stay.

    `one_line` spells these too, for names. Any part of a text may be given by itself: no sequence spans two calls.
    """
    shown = CONTROLS.sub(_spelled, text.replace("\r\n", "\n"))
    return shown.replace("\n", "^J").replace("\t", "^I") if one_line else shown


def _spelled(control: re.Match[str]) -> str:
    code = ord(control[0])
    return f"^{chr(code ^ 0x40)}" if code < 0x80 else f"<U+{code:04X}>"


def echo(text: object = "", *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print text of the program, which may quote others: control characters are visible, in pipes too.

    `style` is that of `click.style`, on a terminal.
    """
    click.echo(styled(visible(str(text)), sys.stderr if err else sys.stdout, **style), err=err, nl=nl)


def write(text: str, *, nl: bool = False, **style: Any) -> None:
    """Print a result on standard output: control characters are visible on a terminal, and unchanged elsewhere."""
    shown = visible(text) if sys.stdout.isatty() else text
    click.echo(styled(shown, sys.stdout, **style), nl=nl, color=True)  # else click would remove sequences from a pipe


def styled(text: str, stream: IO[str], **style: Any) -> str:
    """`text` with a style, on a terminal and without NO_COLOR (no-color.org); else unchanged."""
    return click.style(text, **style) if style and stream.isatty() and not os.environ.get("NO_COLOR") else text


def columns() -> int:
    """The width of stderr's terminal in columns."""
    with contextlib.suppress(OSError, ValueError):
        if width := os.get_terminal_size(sys.stderr.fileno()).columns:
            return width
    return shutil.get_terminal_size().columns


def redraw(line: str = "") -> None:
    """Replace the line on a terminal by `line`, cut to its width: a second line could not be cleared."""
    click.echo(f"\r\x1b[K{visible(line, one_line=True)[: columns() - 1]}", nl=False, err=True)
