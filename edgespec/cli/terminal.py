"""A line of progress on stderr that is redrawn."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys

import click


def columns() -> int:
    """The width of stderr's terminal in columns."""
    with contextlib.suppress(OSError, ValueError):
        if width := os.get_terminal_size(sys.stderr.fileno()).columns:
            return width
    return shutil.get_terminal_size().columns


def redraw(line: str = "") -> None:
    """Replace the line on a terminal by `line`, cut to its width: a second line could not be cleared."""
    click.echo(f"\r\x1b[K{line[: columns() - 1]}", nl=False, err=True)
