"""The machine: its cores, how busy they are, and the folders of the user's files."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import platformdirs

from edgespec.system import cgroup

_OTHERS_SHARE = 0.2
"""The share of a core that other programs may use without slowing down what is timed."""

_TOTAL_SHARE = 0.95
"""The share of all cores in use from which on other programs slow down what is timed: threads share cores then, and the
others wait for them."""

_CPU_FOLDER = Path("/sys/devices/system/cpu")
"""The folder in which Linux describes the CPUs."""


def default_threads() -> int:
    """Physical cores this process may use; on CPUs with fast and slow cores, the fast ones. A container may have less.

    Threads beyond a container's quota of CPU time would only wait for each other.
    """
    quota = cgroup.cpu_quota()
    return _fast_cores() if quota == math.inf else max(1, min(_fast_cores(), int(quota)))


def _fast_cores() -> int:
    if sys.platform == "darwin":
        return _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu") or os.cpu_count() or 1
    if sys.platform.startswith(("linux", "android")):
        return linux_threads(_CPU_FOLDER, allowed_cpus(), phone=is_android())
    return os.cpu_count() or 1


def allowed_cpus() -> list[int]:
    """The CPUs that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def is_android() -> bool:
    """Whether this is Android; before Python 3.13, `sys.platform` is linux there."""
    return sys.platform == "android" or "ANDROID_ROOT" in os.environ


def linux_threads(cpus: Path, allowed: Sequence[int], *, phone: bool = False) -> int:
    """The number of fast physical cores among `allowed`, by the kernel's description in `cpus` (_CPUS).

    `phone`: half of them where their clocks are unknown, since a phone has several kinds of cores.
    """
    if phone and not any(_clocks(cpus, allowed).values()):
        return max(1, len(allowed) // 2)
    return max(1, linux_cores(cpus, fast_cpus(cpus, allowed)))


def cores() -> int:
    """Physical cores of the machine, slow ones and those of other processes too."""
    if sys.platform == "darwin":
        return _sysctl("hw.physicalcpu") or os.cpu_count() or 1
    cpus = [int(path.name[3:]) for path in _CPU_FOLDER.glob("cpu[0-9]*") if (path / "topology").exists()]
    return linux_cores(_CPU_FOLDER, cpus) or os.cpu_count() or 1


def linux_cores(cpus: Path, numbers: Iterable[int]) -> int:
    """The number of physical cores that the CPUs `numbers` belong to."""
    physical_cores = set()
    for cpu in numbers:
        topology = cpus / f"cpu{cpu}" / "topology"
        # Since Linux 6.0 a phone's cores are counted anew in each cluster.
        group = [_number(topology / name) for name in ("physical_package_id", "cluster_id")]
        physical_cores.add((*group, _number(topology / "core_id", default=cpu)))
    return len(physical_cores)


def fast_cpus(cpus: Path = _CPU_FOLDER, allowed: Sequence[int] | None = None) -> list[int]:
    """The fast ones among the CPUs `allowed` (by default, all that this process may use), by the kernel's description.

    Phones have two or three kinds (say 3.2, 2.8 and 2.0 GHz), and a forward pass waits for its slowest thread: a CPU
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
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Hardware"}:
            return value.strip()
    return platform.machine()


def cache_directory() -> Path:
    """The folder of files that can be made again: latency models, checksums."""
    return Path(platformdirs.user_cache_dir("edgespec", appauthor=False))


def config_directory() -> Path:
    """The folder of the configuration file."""
    return Path(platformdirs.user_config_dir("edgespec", appauthor=False))


def data_directory() -> Path:
    """The folder of the user's data: models, chats, typed lines."""
    return Path(platformdirs.user_data_dir("edgespec", appauthor=False))


def made_folder(folder: Path) -> Path:
    """`folder`, created where it is missing; a new data directory is readable by its owner alone. Raises OSError."""
    data = data_directory()
    if folder.is_relative_to(data):
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class CpuUse(NamedTuple):
    """Seconds so far: on the clock, of CPU time of all programs (None if unknown), and of this process alone."""

    seconds: float
    total: float | None
    own: float

    @classmethod
    def now(cls) -> CpuUse:
        """The present counts."""
        return cls(time.perf_counter(), _busy_seconds(), time.process_time())

    def crowded(self, later: CpuUse, cores: int) -> bool:
        """Whether other programs slowed this one down between this moment and `later`."""
        if self.total is None or later.total is None:
            return False
        seconds = later.seconds - self.seconds
        total, own = later.total - self.total, later.own - self.own
        return total - own > _OTHERS_SHARE * seconds and total > _TOTAL_SHARE * cores * seconds


def _busy_seconds() -> float | None:
    """Seconds that all programs have used the allowed CPUs since the system's start; None where that is unknown."""
    allowed = {f"cpu{cpu}" for cpu in allowed_cpus()}
    ticks = 0
    try:
        for line in Path("/proc/stat").read_text().splitlines():
            name, *figures = line.split()
            if name in allowed:
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
