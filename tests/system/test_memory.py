"""Free memory, as Linux, Android, macOS and containers tell it."""

from __future__ import annotations

import errno
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from edgespec.system import memory
from edgespec.system.memory import FreeMemory, free_memory, vm_stat_available

MIB = 1 << 20
MEMINFO = (
    f"MemTotal: {8 << 20} kB\nMemFree: 100 kB\nMemAvailable: {2 << 20} kB\nSwapTotal: 9 kB\nSwapFree: {1 << 20} kB\n"
)
VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            200000.
Pages inactive:                           30000.
Pages speculative:                         2000.
Pages throttled:                              0.
Pages wired down:                         99999.
Pages purgeable:                            500.
"Translation faults":                 123456789.
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "platform", "linux")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    return tmp_path


def test_linux_tells_what_is_available_and_the_swap_space(root: Path) -> None:
    (root / "proc/meminfo").write_text(MEMINFO)
    assert free_memory(root) == FreeMemory(2048 * MIB, 3072 * MIB)


def test_a_container_has_what_its_limit_leaves(root: Path) -> None:
    (root / "proc/meminfo").write_text(MEMINFO)
    (root / "proc/self/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n")
    (root / "proc/self/cgroup").write_text("0::/\n")
    for name, count in (("max", 512 * MIB), ("current", 112 * MIB), ("swap.max", 0)):
        (root / f"sys/fs/cgroup/memory.{name}").write_text(f"{count}\n")
    assert free_memory(root) == FreeMemory(400 * MIB, 400 * MIB)


def test_a_sandbox_that_shows_nothing_sets_no_limit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_memory(root) == FreeMemory()

    def refused(path: Path, *_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_text", refused)
    assert free_memory(root) == FreeMemory()


def test_a_kernel_before_memavailable_sets_no_limit(root: Path) -> None:
    (root / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemFree: 10 kB\nmangled\n")
    assert free_memory(root).available == math.inf


def test_macos_tells_pages() -> None:
    assert vm_stat_available(VM_STAT) == 16384 * 42500
    assert vm_stat_available("") == vm_stat_available("Pages free: 12.") == math.inf


def test_a_mac_whose_path_lacks_vm_stat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("PATH", "/nowhere")
    assert free_memory() == FreeMemory()


def test_this_machine() -> None:
    free = free_memory()
    assert 0 < free.available <= free.most
    assert memory.free_memory().available < math.inf or not Path("/proc/meminfo").exists()
