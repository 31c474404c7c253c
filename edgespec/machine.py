"""The machine: how many threads an evaluation should use, and where files are kept."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import platformdirs

_CPUS = Path("/sys/devices/system/cpu")


def default_threads() -> int:
    """Physical cores this process may use; on CPUs with fast and slow cores, the fast ones."""
    if sys.platform == "darwin":
        return _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu") or os.cpu_count() or 1
    if sys.platform.startswith(("linux", "android")):
        return linux_threads(_CPUS, sorted(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def linux_threads(cpus: Path, allowed: list[int]) -> int:
    """The fast physical cores among `allowed`, by the kernel's description in `cpus` (/sys/devices/system/cpu).

    A core counts as fast at 0.8 of the highest clock: phones have two or three kinds (say 3.2, 2.8 and 2.0 GHz), and
    an evaluation waits for its slowest thread.
    """
    clocks = {cpu: _number(cpus / f"cpu{cpu}" / "cpufreq" / "cpuinfo_max_freq") for cpu in allowed}
    fastest = max(clocks.values(), default=0)
    cores = set()
    for cpu, clock in clocks.items():
        topology = cpus / f"cpu{cpu}" / "topology"
        if clock >= 0.8 * fastest:
            core = _number(topology / "core_id", default=cpu)
            cores.add((_number(topology / "physical_package_id"), core))
    return max(1, len(cores))


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


def _number(path: Path, default: int = 0) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # a kernel that does not tell, or a sandbox (Android's) that does not let
        return default


def _sysctl(name: str) -> int:
    text = _run_sysctl(name)
    return int(text) if text.isdigit() else 0


def _run_sysctl(name: str) -> str:
    result = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return result.stdout.strip()
