"""The limits that control groups set for this process: a container's, or a systemd slice's.

Both versions are read: cgroup v1 has a hierarchy for each controller, v2 one for all. A limit of any group above counts
too. Files that are missing or unreadable (Android's sandbox) set no limit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_ROOT = Path("/")

_NO_LIMIT = 1 << 60
"""Bytes from which on a limit of cgroup v1 is none: it says 2^63 rounded down to pages."""


class MemoryLeft(NamedTuple):
    """Bytes that the groups of this process may still take: `free` of memory, `swap` beyond it."""

    free: float = math.inf
    swap: float = math.inf


def cpu_quota(root: Path = _ROOT) -> float:
    """The CPUs' worth of time that this process may use, such as 1.5; infinite without a quota."""
    quotas = [math.inf]
    for folder in _groups("cpu", root):
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # v1, where -1 is none; v2 has both in one file
        pair = _text(folder / "cpu.max").split() or [_text(folder / name) for name in names]
        if len(pair) == 2 and all(_is_count(text) and int(text) for text in pair):
            quotas.append(int(pair[0]) / int(pair[1]))
    return min(quotas)


def memory_left(root: Path = _ROOT) -> MemoryLeft:
    """What the groups of this process may still take. Pages of files do not count as taken: they can be dropped."""
    free = swap = math.inf
    droppable: tuple[str, ...]
    for folder in _groups("memory", root):
        if (folder / "memory.max").exists():  # v2
            limit, used = _bytes(folder / "memory.max"), _bytes(folder / "memory.current")
            droppable = ("inactive_file", "active_file", "slab_reclaimable")
            swap_left = _bytes(folder / "memory.swap.max") - _used(_bytes(folder / "memory.swap.current"))
        else:
            limit, used = _bytes(folder / "memory.limit_in_bytes"), _bytes(folder / "memory.usage_in_bytes")
            droppable = ("total_inactive_file", "total_active_file")
            both_limit = _bytes(folder / "memory.memsw.limit_in_bytes")  # of memory and swap together
            swap_left = both_limit - limit if both_limit < math.inf and limit < math.inf else math.inf
        if limit < math.inf:
            kept = _used(used) - sum(_statistics(folder / "memory.stat").get(name, 0) for name in droppable)
            free = min(free, max(0, limit - max(0, kept)))
            swap = min(swap, max(0, swap_left))
    return MemoryLeft(free, swap)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's groups that `controller` may limit, from its own one up to the mount."""
    own = _own_groups(root)
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), (*after.split(), "", "", "")[:3]
        if len(fields) < 5 or kind not in ("cgroup", "cgroup2"):
            continue
        group = own.get("" if kind == "cgroup2" else controller)
        if group is None or (kind == "cgroup" and controller not in options.split(",")):
            continue
        top = root / _unescaped(fields[4]).lstrip("/")
        try:
            below = group.relative_to(_unescaped(fields[3]))
        except ValueError:  # a group outside of what is mounted: a container that sees its own part alone
            below = PurePosixPath()
        if ".." in below.parts:
            below = PurePosixPath()
        yield from (top / part for part in (below, *below.parents))


def _own_groups(root: Path) -> dict[str, PurePosixPath]:
    """The groups of this process by the name of a v1 controller; by "" in v2."""
    groups = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        groups.update(dict.fromkeys(controllers.split(","), PurePosixPath(path)))
    return groups


def _unescaped(path: str) -> str:
    r"""A path of mountinfo, where a space is \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _bytes(path: Path) -> float:
    """The number in a file; infinite where there is none (`max`)."""
    text = _text(path)
    return int(text) if _is_count(text) and int(text) < _NO_LIMIT else math.inf


def _used(count: float) -> float:
    """An unknown usage counts as none."""
    return 0 if count == math.inf else count


def _statistics(path: Path) -> dict[str, int]:
    """The lines `name number` of a file."""
    pairs = (line.partition(" ") for line in _text(path).splitlines())
    return {name: int(count) for name, _, count in pairs if _is_count(count)}
