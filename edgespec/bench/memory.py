"""The most memory that another process held at once. Pages of a model file that it had mapped count as its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgespec.errors import EvaluationError

_WATCH = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Linux counts what a process held before it became another program, so the one that starts it has to be small."""


def peak_of(command: Sequence[str]) -> int:
    """Run `command` to its end; its peak resident memory in bytes. Raises EvaluationError when it fails."""
    watched = subprocess.run(
        (sys.executable, "-c", _WATCH, *command),
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    status, _, peak = watched.stdout.strip().partition(" ")
    if status != "0" or not peak.isdigit():
        reason = watched.stderr.strip().rsplit("\n", 1)[-1]
        raise EvaluationError(f"a process whose memory was to be measured ended with status {status or '?'}: {reason}")
    return int(peak) * (1 if sys.platform == "darwin" else 1024)


def peak_so_far(pid: int) -> int | None:
    """The same of a process that runs; None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
