"""Child processes, for other programs and for calls into llama.cpp that may end the process. None is left behind."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from edgespec.errors import EvaluationError
from edgespec.system.signals import delayed_signals

IMPORT_ROOT = Path(__file__).parents[2]
"""The working directory of child processes, in which `-m` finds this package and no file of the user."""

_SOURCE_DIRECTORY = r"^\S*/"  # a failed assertion begins with the path of a source file

_running: set[subprocess.Popen[str]] = set()


class ChildEnd(NamedTuple):
    """The end of a child: its exit status (negative for a signal), and the last line that it printed."""

    status: int
    line: str

    @property
    def how(self) -> str:
        """The exit status or signal with the last line, as text for an error message."""
        status = self.status
        end = f"signal {-status}, {signal.strsignal(-status)}" if status < 0 else f"exit status {status}"
        return f"{end}: {re.sub(_SOURCE_DIRECTORY, '', self.line)}" if self.line else end


def program(module: str) -> tuple[str, ...]:
    """The command that runs a module of this package; its arguments follow."""
    return (sys.executable, "-W", "ignore", "-m", module)


def start(
    command: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.STDOUT,
    cwd: Path | None = None,
) -> subprocess.Popen[str]:
    """Start a child; `end` ends it, at the latest when this program exits. Raises OSError where it cannot be started.

    It has a session of its own: Ctrl-C at the terminal is not for it, and its own children end with it.
    """
    child = None
    try:
        with delayed_signals():
            child = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, encoding="utf-8", errors="replace", cwd=cwd,
                env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # else a debugger is started on a child that aborts
                start_new_session=True,
            )  # fmt: skip
            _running.add(child)
    except BaseException:
        if child is not None:
            end(child)
        raise
    return child


def end(child: subprocess.Popen[str]) -> None:
    """Kill a child and its own children, and wait until it is gone."""
    with delayed_signals():
        if child.returncode is None:
            _kill_with_children(child)
            child.wait()
        _running.discard(child)


def _kill_with_children(child: subprocess.Popen[str]) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended just now
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()


@atexit.register
def _end_all() -> None:
    while _running:
        end(next(iter(_running)))


def run(command: Sequence[str], on_line: Callable[[str], object] = len) -> ChildEnd:
    """Run `command` to its end and give every line that it prints to `on_line`. Paths in it have to be absolute.

    An exception here, even KeyboardInterrupt, kills the child. Raises EvaluationError where no process can be started.
    """
    try:
        child = start(command, stdout=subprocess.PIPE, cwd=IMPORT_ROOT)
    except OSError as error:
        raise EvaluationError(f"no process can be started: {error.strerror}") from error
    last = ""
    with child:
        try:
            assert child.stdout is not None
            for text in child.stdout:
                line = "".join(c if c.isprintable() else " " for c in text).strip()
                last = line or last
                on_line(line)
            status = child.wait()
        finally:
            end(child)
    return ChildEnd(status, last)


def serve_json_lines(answer: Callable[..., dict[str, Any]]) -> None:
    """In a child: write an empty object when ready, then answer each JSON line on stdin with one, until its end."""
    response: dict[str, Any] = {}
    while True:
        sys.stdout.write(json.dumps(response) + "\n")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return
        response = answer(**json.loads(line))


def disable_core_dumps() -> None:
    """In a child: an abort writes no core dump."""
    if os.name == "posix":
        import resource  # noqa: PLC0415

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
