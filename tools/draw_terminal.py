"""Draws what commands print in a terminal of 100 columns: `python tools/draw_terminal.py OUT.svg COMMAND...`

Each COMMAND is one argument, shown behind a `$` and run by the shell in the current folder. `SHOWN=cat` shows SHOWN and
draws what comes on standard input.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 100


def output_of(command: str) -> str:
    """What the command prints on a terminal, both streams, colours included."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", command])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    printed = b""
    try:
        while piece := os.read(terminal, 65536):
            printed += piece
    except OSError:  # the terminal went with the command
        pass
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        sys.exit(f"{command!r} failed: {printed.decode(errors='replace')}")
    return printed.decode().replace("\r\n", "\n")


def main(out: str, *commands: str) -> None:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for command in commands:
        shown = command.removesuffix("=cat")
        console.print(Text(f"$ {shown}", style="bold"))
        console.print(Text.from_ansi(sys.stdin.read().strip("\n") if shown != command else output_of(command)))
    Path(out).write_text(console.export_svg(title="edgespec"), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
