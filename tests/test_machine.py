"""Threads by the kernel's description of the cores, on made-up machines."""

from __future__ import annotations

import pytest

from edgespec.machine import cache_directory, cpu_name, default_threads, linux_threads


def describe(folder, cores):
    """Write what the kernel shows for CPUs of (package, core, highest clock in kHz); None leaves the clock out."""
    for cpu, (package, core, clock) in enumerate(cores):
        topology = folder / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
        if clock is not None:
            (folder / f"cpu{cpu}" / "cpufreq").mkdir()
            (folder / f"cpu{cpu}" / "cpufreq" / "cpuinfo_max_freq").write_text(f"{clock}\n")


MACHINES = {
    "a laptop with two threads a core": ([(0, core, 4_000_000) for core in (0, 0, 1, 1, 2, 2, 3, 3)], 4),
    "two sockets": ([(package, core, None) for package in (0, 1) for core in (0, 1)], 4),
    "a phone: one prime, three big, four little": (
        [(0, n, 1_800_000) for n in range(4)]
        + [(0, n, 2_800_000) for n in range(4, 7)] + [(0, 7, 3_200_000)], 4,
    ),
    "a laptop with efficiency cores": (
        [(0, n, 5_000_000) for n in range(4)] + [(0, 8 + n, 3_500_000) for n in range(8)], 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MACHINES)
def test_physical_fast_cores_are_counted(name, tmp_path):
    cores, expected = MACHINES[name]
    describe(tmp_path, cores)
    assert linux_threads(tmp_path, list(range(len(cores)))) == expected


def test_only_cores_the_process_may_use_count(tmp_path):
    describe(tmp_path, [(0, core, 4_000_000) for core in range(8)])
    assert linux_threads(tmp_path, [2, 5]) == 2


def test_a_kernel_that_tells_nothing_still_gives_the_cpus(tmp_path):
    assert linux_threads(tmp_path / "nothing", [0, 1, 2]) == 3


def test_this_machine():
    assert default_threads() >= 1
    assert cpu_name()
    assert cache_directory().name == "edgespec"
