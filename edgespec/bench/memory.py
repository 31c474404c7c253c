"""The peak memory of another process. Mapped pages of a model file are included."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from edgespec.errors import EvaluationError
from edgespec.system import child

_WATCH = """
import os, resource, subprocess, sys
kept = lambda name: not name.startswith("EDGESPEC_") or name == "EDGESPEC_MODELS"
env = {name: value for name, value in os.environ.items() if kept(name)}
status = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=env)
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""A small program that runs a command: Linux counts the memory of the process before it executes the command, too."""


def peak_of(command: Sequence[str]) -> int:
    """Run `command` to its end; returns its peak resident memory in bytes. Raises EvaluationError when it fails.

    Options that the environment sets do not apply to it.
    """
    lines: list[str] = []
    ended = child.run((sys.executable, "-c", _WATCH, *command), lines.append)
    status, _, peak = ended.line.partition(" ")
    if status != "0" or not peak.isdigit():
        reason = lines[-2] if len(lines) > 1 else ended.how
        raise EvaluationError(f"a process whose memory was to be measured ended with status {status or '?'}: {reason}")
    return int(peak) * (1 if sys.platform == "darwin" else 1024)


def peak_so_far(pid: int) -> int | None:
    """The peak resident memory of a running process in bytes; None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else None
