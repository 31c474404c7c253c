"""Huge pages: what is new memory, and what is asked for in it."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.backend import pages
from edgespec.backend.pages import NewMemory

MEGABYTE = 1 << 20
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not SETTING.exists() or "[never]" in SETTING.read_text(),
    reason="needs Linux with huge pages",
)
def test_memory_that_came_since_gets_huge_pages_before_it_is_written() -> None:
    memory = NewMemory()
    with mmap.mmap(-1, 96 * MEGABYTE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as piece:
        assert memory.advise() >= 90 * MEGABYTE
        piece[:] = bytes(len(piece))
        flags = [line for line in Path("/proc/self/smaps").read_text().splitlines() if line.startswith("VmFlags:")]
        assert any(" hg" in line for line in flags)


def test_nothing_is_asked_for_old_memory_and_small_pieces() -> None:
    with mmap.mmap(-1, 96 * MEGABYTE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
        memory = NewMemory()
        with mmap.mmap(-1, 8 * MEGABYTE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
            assert memory.advise() == 0


def test_a_system_that_tells_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pages, "_MAPS", tmp_path / "missing")
    assert NewMemory().advise() == 0


def ranges() -> st.SearchStrategy[list[tuple[int, int]]]:
    """Ascending, without overlaps."""
    places = st.lists(st.integers(0, 60), unique=True, max_size=12).map(sorted)
    return places.map(lambda found: list(zip(found[::2], found[1::2], strict=False)))


@given(ranges(), ranges())
def test_new_memory_is_what_is_there_and_was_not(now: list[tuple[int, int]], before: list[tuple[int, int]]) -> None:
    def bytes_of(pieces: list[tuple[int, int]]) -> set[int]:
        return {place for begin, end in pieces for place in range(begin, end)}

    assert bytes_of(list(pages._without(iter(now), before))) == bytes_of(now) - bytes_of(before)
