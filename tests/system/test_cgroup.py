"""Limits of control groups, on made-up machines of cgroup v1 and v2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgespec.system import cgroup, cpu
from edgespec.system.cgroup import MemoryLeft, cpu_quota, memory_left

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n"
V1 = (
    "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
MIB = 1 << 20


def machine(root: Path, mounts: str, own: str, files: Mapping[str, str]) -> Path:
    """A root file system with these mounts and groups of this process, and `files` in /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n{mounts}")
    (root / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def v1_quota(quota: int, period: int = 100_000, folder: str = "cpu,cpuacct") -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": str(period)}


@pytest.mark.parametrize(
    ("mounts", "own", "files", "quota"),
    [
        (V2, "0::/\n", {"cpu.max": "100000 100000"}, 1.0),
        (V2, "0::/\n", {"cpu.max": "250000 100000"}, 2.5),
        (V2, "0::/\n", {"cpu.max": "max 100000"}, math.inf),
        (V2, "0::/app.slice/it.service\n", {"app.slice/cpu.max": "50000 100000", "cpu.max": "max 100000"}, 0.5),
        (V2, "0::/a/b\n", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "200000 100000"}, 2.0),
        (V2, "0::/docker/f00\n", {"cpu.max": "100000 100000"}, 1.0),
        (V2, "0::/../elsewhere\n", {"cpu.max": "100000 100000"}, 1.0),
        (V2.replace(" / /sys", " /docker/f00 /sys"), "0::/docker/f00\n", {"cpu.max": "100000 100000"}, 1.0),
        (V2, "0::/\n", {"cpu.max": "0 0"}, math.inf),
        (V1, "4:cpu,cpuacct:/\n", v1_quota(100_000), 1.0),
        (V1, "4:cpu,cpuacct:/\n", v1_quota(-1), math.inf),
        (V1, "4:cpu,cpuacct:/docker/f00\n", v1_quota(150_000, folder="cpu,cpuacct/docker/f00"), 1.5),
        (V1, "4:cpu,cpuacct:/docker/f00\n0::/docker/f00\n", v1_quota(100_000), 1.0),
        (V1.replace("/ /sys", "/docker/f00 /sys"), "4:cpu,cpuacct:/docker/f00\n", v1_quota(200_000), 2.0),
        (V1 + V2.replace("/cgroup ", "/cgroup/unified "), "4:cpu,cpuacct:/\n0::/\n", v1_quota(100_000), 1.0),
        (V2.replace("fs/cgroup", r"fs/cgroup/my\040groups"), "0::/\n", {"my groups/cpu.max": "100000 100000"}, 1.0),
        (V1, "4:memory:/\n", v1_quota(100_000), math.inf),
        ("", "0::/\n", {"cpu.max": "100000 100000"}, math.inf),
        (V2, "", {"cpu.max": "100000 100000"}, math.inf),
    ],
)
def test_a_quota_of_cpu_time(tmp_path: Path, mounts: str, own: str, files: Mapping[str, str], quota: float) -> None:
    assert cpu_quota(machine(tmp_path, mounts, own, files)) == quota


@pytest.mark.parametrize(
    ("quota", "allowed", "threads"),
    [(math.inf, 2, 2), (1.0, 2, 1), (0.3, 2, 1), (1.9, 4, 1), (2.0, 4, 2), (8.0, 4, 4)],
)
def test_threads_are_the_smaller_of_cores_and_quota_and_at_least_one(
    monkeypatch: pytest.MonkeyPatch, quota: float, allowed: int, threads: int
) -> None:
    monkeypatch.setattr(cpu, "_fast_cores", lambda: allowed)
    monkeypatch.setattr(cgroup, "cpu_quota", lambda: quota)
    assert cpu.default_threads() == threads


@pytest.mark.parametrize(
    ("mounts", "own", "files", "left"),
    [
        (V2, "0::/\n", {"memory.max": "max", "memory.current": "5"}, MemoryLeft()),
        (
            V2, "0::/\n",
            {
                "memory.max": str(512 * MIB), "memory.current": str(300 * MIB), "memory.swap.max": str(64 * MIB),
                "memory.swap.current": str(4 * MIB),
                "memory.stat": f"anon 1\ninactive_file {150 * MIB}\nactive_file {50 * MIB}\nslab_reclaimable 0",
            },
            MemoryLeft(412 * MIB, 60 * MIB),
        ),
        (
            V2, "0::/a/b\n",
            {"a/memory.max": str(100 * MIB), "a/memory.current": str(150 * MIB), "a/b/memory.max": str(400 * MIB)},
            MemoryLeft(0, math.inf),
        ),
        (V1, "5:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, MemoryLeft()),
        (
            V1, "5:memory:/docker/f00\n",
            {
                "memory/memory.limit_in_bytes": str(512 * MIB), "memory/memory.usage_in_bytes": str(400 * MIB),
                "memory/memory.memsw.limit_in_bytes": str(512 * MIB),
                "memory/memory.stat": f"total_inactive_file {100 * MIB}\ntotal_active_file {100 * MIB}",
            },
            MemoryLeft(312 * MIB, 0),
        ),
        ("", "", {}, MemoryLeft()),
    ],
)  # fmt: skip
def test_memory_that_is_left(tmp_path: Path, mounts: str, own: str, files: Mapping[str, str], left: MemoryLeft) -> None:
    assert memory_left(machine(tmp_path, mounts, own, files)) == left


_LIMIT = st.one_of(st.sampled_from(["max", "-1", "", "max 100000", "1e9", "²", "0"]), st.integers().map(str), st.text())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mounts=st.one_of(st.sampled_from([V1, V2, V1 + V2]), st.text()), own=st.text(), limit=_LIMIT, used=_LIMIT)
def test_whatever_the_files_hold_limits_are_read_or_left(
    tmp_path_factory: pytest.TempPathFactory, mounts: str, own: str, limit: str, used: str
) -> None:
    files = {
        **{f"{folder}{name}": limit for folder in ("", "memory/") for name in ("memory.max", "memory.limit_in_bytes")},
        **{f"{folder}{name}": used for folder in ("", "memory/") for name in ("memory.current", "memory.stat")},
        "cpu.max": f"{limit} {used}",
        **{f"cpu,cpuacct/cpu.cfs_{name}_us": limit for name in ("quota", "period")},
    }
    encodable = {name: text.encode(errors="replace").decode() for name, text in files.items()}
    root = tmp_path_factory.mktemp("root")
    machine(root, mounts.encode(errors="replace").decode(), f"0::/\n4:cpu,cpuacct:/\n{own!a}", encodable)
    assert cpu_quota(root) > 0
    assert min(memory_left(root)) >= 0
