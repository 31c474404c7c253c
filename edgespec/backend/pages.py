"""Huge pages for a model's weights, on Linux.

Every token reads all weights. In pages of 4 KiB each of them costs a look-up of its address. Where the system's setting
is `madvise`, a program gets huge pages only for memory that it asks them for, and llama.cpp asks for none.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_PRIVATE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p 0+ 00:00 0 *$")
"""Memory of the process's own, and no file's. Heap and stacks have a name."""

_HUGEPAGE = 14
"""MADV_HUGEPAGE of asm-generic/mman-common.h."""

_HUGE = 2 << 20
_LEAST = 16 * _HUGE
"""Bytes. Weights are in large pieces; what is smaller gains nothing."""

Range = tuple[int, int]


class NewMemory:
    """What this process allocates from now on."""

    def __init__(self) -> None:
        self._before = list(_private())

    def advise(self) -> int:
        """Ask for huge pages in what came since, where nothing was written yet; the bytes that shall have them.

        A wish: 0 where the system does not know such pages or does not tell. Raises nothing.
        """
        return sum(end - begin for begin, end in _without(_private(), self._before) if _advised(begin, end))


def _private() -> Iterator[Range]:
    if not sys.platform.startswith(("linux", "android")):
        return
    try:
        lines = _MAPS.read_text().splitlines()
    except (OSError, ValueError):  # a sandbox that does not let
        return
    for line in lines:
        if found := _PRIVATE.match(line):
            yield int(found[1], 16), int(found[2], 16)


def _without(ranges: Iterator[Range], known: list[Range]) -> Iterator[Range]:
    """Parts of `ranges` outside the `known` ones (ascending): Linux tells new memory beside old as one range."""
    for begin, end in ranges:
        start = begin
        for known_begin, known_end in known:
            if known_begin < end and start < known_end:
                if start < known_begin:
                    yield start, known_begin
                start = known_end
        if start < end:
            yield start, end


def _advised(begin: int, end: int) -> bool:
    begin, end = -(-begin // _HUGE) * _HUGE, end // _HUGE * _HUGE
    if end - begin < _LEAST:
        return False
    advise = ctypes.CDLL(None).madvise
    advise.argtypes, advise.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return bool(advise(begin, end - begin, _HUGEPAGE) == 0)
