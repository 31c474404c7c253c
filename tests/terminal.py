"""A pseudo-terminal for tests: what a person would see and type."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator, Mapping, Sequence


@contextlib.contextmanager
def heeding_signals() -> Iterator[None]:
    """Programs that are started meanwhile heed Ctrl-C and a closed window.

    In a job that a shell put into the background, or below nohup, these are ignored, and programs inherit that.
    """
    numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        with heeding_signals():
            self.pid, self.fd = pty.fork()
            if self.pid == 0:
                # A slow machine must not make prompt_toolkit say that this terminal, which knows no CPR, knows none.
                os.execvpe(command[0], list(command), {**env, "PROMPT_TOOLKIT_NO_CPR": "1"})
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.screen = ""
        self.read_up_to = 0

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str, seconds: float = 40) -> None:
        """Read until `text`, a regular expression, comes after what was waited for before."""
        end = time.monotonic() + seconds
        while not (found := re.compile(text, re.DOTALL).search(self.screen, self.read_up_to)):
            assert time.monotonic() < end, f"{text!r} did not come: {self.screen[self.read_up_to :]!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                self.screen += os.read(self.fd, 65536).decode(errors="replace")
        self.read_up_to = found.end()

    def status(self, seconds: float = 60) -> int:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.fd], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):  # the terminal goes with the program
                    self.screen += os.read(self.fd, 65536).decode(errors="replace")
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"still running: {self.screen!r}")

    def hang_up(self, seconds: float = 60) -> int:
        """Close the window; the program's exit status."""
        os.close(self.fd)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.1)
        raise AssertionError("still running")
