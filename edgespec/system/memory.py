"""How much memory this process can still get."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from edgespec.system import cgroup

_ROOT = Path("/")

_VM_STAT_FREE = ("free", "inactive", "speculative", "purgeable")
"""The kinds of pages in the output of macOS's vm_stat that are free or can be dropped."""


class FreeMemory(NamedTuple):
    """Bytes that this process can still get: `available` without swapping, and `most` with all free swap space.

    Infinite where the system does not tell.
    """

    available: float = math.inf
    most: float = math.inf


def free_memory(root: Path = _ROOT) -> FreeMemory:
    """The memory that is free now, within the limits of control groups (a container's, say)."""
    if sys.platform == "darwin":
        return FreeMemory(_macos_available())
    if not sys.platform.startswith(("linux", "android")):
        return FreeMemory()
    known = _meminfo(root / "proc/meminfo")
    available = known.get("MemAvailable", math.inf)
    groups = cgroup.memory_left(root)
    swap = known.get("SwapFree", math.inf)
    return FreeMemory(min(available, groups.free), min(available + swap, groups.free + min(swap, groups.swap)))


def _meminfo(path: Path) -> dict[str, int]:
    """The sizes of /proc/meminfo in bytes; empty where it cannot be read."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    return {match[1]: 1024 * int(match[2]) for match in re.finditer(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def _macos_available() -> float:
    """The pages that are free or can be dropped, in bytes, by vm_stat; its swap space grows as needed."""
    try:
        result = subprocess.run(["vm_stat"], capture_output=True, text=True, check=False)
    except OSError:  # it is in /usr/bin, which not every PATH has
        return math.inf
    return vm_stat_available(result.stdout)


def vm_stat_available(text: str) -> float:
    """The bytes that the output of vm_stat says are free or can be dropped; infinite where it says nothing."""
    page = re.search(r"page size of (\d+) bytes", text)
    pages = {match[1]: int(match[2]) for match in re.finditer(r"^Pages (\w+):\s+(\d+)\.$", text, re.MULTILINE)}
    if page is None or "free" not in pages:
        return math.inf
    return int(page[1]) * sum(pages.get(name, 0) for name in _VM_STAT_FREE)
