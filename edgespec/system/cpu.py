"""The machine: how many threads an evaluation should use, and where files are kept."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import platformdirs

_OTHERS = 0.2
_ALL = 0.95
"""Where other programs had so much of a core, while so much of all cores was in use, they slowed down what was timed:
two that share a core slow down each other, and threads that wait for one that has to share wait too."""

_CPUS = Path("/sys/devices/system/cpu")
"""Where Linux describes them."""


def default_threads() -> int:
    """Physical cores this process may use; on CPUs with fast and slow cores, the fast ones."""
    if sys.platform == "darwin":
        return _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu") or os.cpu_count() or 1
    if sys.platform.startswith(("linux", "android")):
        return linux_threads(_CPUS, allowed_cpus(), phone=is_android())
    return os.cpu_count() or 1


def allowed_cpus() -> list[int]:
    """The CPUs that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def is_android() -> bool:
    """Whether this is Android; Python calls it so since 3.13 only, and linux before."""
    return sys.platform == "android" or "ANDROID_ROOT" in os.environ


def linux_threads(cpus: Path, allowed: Sequence[int], *, phone: bool = False) -> int:
    """The number of fast physical cores among `allowed`, by the kernel's description in `cpus` (_CPUS).

    `phone`: half of them where the kernel does not tell how fast they are, since a phone's are seldom of one kind.
    """
    if phone and not any(_clocks(cpus, allowed).values()):
        return max(1, len(allowed) // 2)
    return max(1, linux_cores(cpus, fast_cpus(cpus, allowed)))


def cores() -> int:
    """Physical cores of the machine, slow ones and those of other processes too."""
    if sys.platform == "darwin":
        return _sysctl("hw.physicalcpu") or os.cpu_count() or 1
    there = [int(path.name[3:]) for path in _CPUS.glob("cpu[0-9]*") if (path / "topology").exists()]
    return linux_cores(_CPUS, there) or os.cpu_count() or 1


def linux_cores(cpus: Path, which: Iterable[int]) -> int:
    """The number of physical cores that the CPUs `which` belong to."""
    found = set()
    for cpu in which:
        topology = cpus / f"cpu{cpu}" / "topology"
        # Since Linux 6.0 a phone's cores are counted anew in each cluster.
        places = [_number(topology / name) for name in ("physical_package_id", "cluster_id")]
        found.add((*places, _number(topology / "core_id", default=cpu)))
    return len(found)


def fast_cpus(cpus: Path = _CPUS, allowed: Sequence[int] | None = None) -> list[int]:
    """The fast ones of the CPUs `allowed` (by default, to this process), by the kernel's description.

    Phones have two or three kinds (say 3.2, 2.8 and 2.0 GHz), and an evaluation waits for its slowest thread: a CPU
    counts as fast at 0.8 of the highest clock. Some phones clock both kinds nearly alike, and the slow ones do half as
    much in a cycle; so where the kernel tells their capacities, it has to have half of the highest, too.
    """
    if allowed is None:
        allowed = allowed_cpus()
    clocks = _clocks(cpus, allowed)
    capacities = {cpu: _number(cpus / f"cpu{cpu}" / "cpu_capacity") for cpu in allowed}
    clock, capacity = max(clocks.values(), default=0), max(capacities.values(), default=0)
    return [cpu for cpu in allowed if clocks[cpu] >= 0.8 * clock and capacities[cpu] >= 0.5 * capacity]


def _clocks(cpus: Path, allowed: Sequence[int]) -> dict[int, int]:
    """The highest clock of each CPU in kHz, 0 where the kernel does not tell."""
    return {cpu: _number(cpus / f"cpu{cpu}" / "cpufreq" / "cpuinfo_max_freq") for cpu in allowed}


def cpu_name() -> str:
    """The processor, as it calls itself."""
    if sys.platform == "darwin":
        return _run_sysctl("machdep.cpu.brand_string") or platform.processor()
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    for line in described.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Hardware"}:
            return value.strip()
    return platform.machine()


def cache_directory() -> Path:
    """Where what can be made again is kept: cost curves, which files were checked."""
    return Path(platformdirs.user_cache_dir("edgespec", appauthor=False))


def config_directory() -> Path:
    """Where the person's configuration file is."""
    return Path(platformdirs.user_config_dir("edgespec", appauthor=False))


def data_directory() -> Path:
    """Where what a person said is kept, if it is: chats, lines typed."""
    return Path(platformdirs.user_data_dir("edgespec", appauthor=False))


def made_folder(folder: Path) -> Path:
    """`folder`, made where it is missing. A new data directory is for nobody else's eyes. Raises OSError."""
    data = data_directory()
    if folder.is_relative_to(data):
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Used(NamedTuple):
    """What passed: on the clock, of all CPUs' time where that is known, and of it our own."""

    seconds: float
    everybody: float | None
    ours: float

    @classmethod
    def now(cls) -> Used:
        return cls(time.perf_counter(), _busy_seconds(), time.process_time())

    def crowded(self, until: Used, cores: int) -> bool:
        """Whether other programs were in the way between then and `until`."""
        if self.everybody is None or until.everybody is None:
            return False
        seconds = until.seconds - self.seconds
        everybody, ours = until.everybody - self.everybody, until.ours - self.ours
        return everybody - ours > _OTHERS * seconds and everybody > _ALL * cores * seconds


def _busy_seconds() -> float | None:
    """The time that all programs together have had the CPUs we may use, since the start; None where nobody tells."""
    ours = {f"cpu{cpu}" for cpu in allowed_cpus()}
    ticks = 0
    try:
        for line in Path("/proc/stat").read_text().splitlines():
            name, *figures = line.split()
            if name in ours:
                user, nice, system, _, _, interrupts, deferred = map(int, figures[:7])
                ticks += user + nice + system + interrupts + deferred
    except (OSError, ValueError):  # no Linux, or a sandbox (Android's) that does not let
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def _number(path: Path, default: int = 0) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # a kernel that does not tell, or a sandbox (Android's) that does not let
        return default


def _sysctl(name: str) -> int:
    text = _run_sysctl(name)
    return int(text) if text.isdigit() else 0


def _run_sysctl(name: str) -> str:
    try:
        result = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    except OSError:  # it is in /usr/sbin, which not every PATH has
        return ""
    return result.stdout.strip()
