"""Child processes, for calls into llama.cpp that may end the process, or that Ctrl-C would not stop."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgespec.errors import EvaluationError

IMPORT_ROOT = Path(__file__).parents[2]
"""The working directory of child processes, in which `-m` finds this package and no file of the user."""

_SOURCE_DIRECTORY = r"^\S*/"  # a failed assertion begins with the path of a source file


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


def run(command: Sequence[str], on_line: Callable[[str], object] = len) -> ChildEnd:
    """Run `command` to its end and give every line that it prints to `on_line`. Paths in it have to be absolute.

    An exception here, even KeyboardInterrupt, kills the child. Raises EvaluationError where no process can be started.
    """
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            cwd=IMPORT_ROOT,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # else a debugger is started on a child that aborts
            start_new_session=True,  # so that its own children can be ended too
        )
    except OSError as error:
        raise EvaluationError(f"no process can be started: {error.strerror}") from error
    last = ""
    with child:
        assert child.stdout is not None
        try:
            for text in child.stdout:
                line = "".join(c if c.isprintable() else " " for c in text).strip()
                last = line or last
                on_line(line)
            status = child.wait()
        except BaseException:
            _kill_with_children(child)
            raise
    return ChildEnd(status, last)


def _kill_with_children(child: subprocess.Popen[str]) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()


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
