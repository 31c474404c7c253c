"""A line on stderr that is drawn over and over: how far something is."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys

import click


def columns() -> int:
    """How wide the terminal is that stderr goes to."""
    with contextlib.suppress(OSError, ValueError):
        if wide := os.get_terminal_size(sys.stderr.fileno()).columns:
            return wide
    return shutil.get_terminal_size().columns


def redraw(line: str = "") -> None:
    """Show `line` in the place of the one before, for a terminal. One that is too wide is cut: nothing wipes two."""
    click.echo(f"\r\x1b[K{line[: columns() - 1]}", nl=False, err=True)
