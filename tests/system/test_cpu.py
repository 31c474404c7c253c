"""Threads by the kernel's description of the cores, on made-up machines."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgespec.cli import main
from edgespec.errors import InvalidRequest
from edgespec.system.cpu import (
    cache_directory,
    cpu_name,
    default_threads,
    fast_cpus,
    is_android,
    linux_cores,
    linux_threads,
)


def describe(
    folder: Path,
    cores: Sequence[tuple[int, int, int | None]],
    *,
    clusters: Sequence[int] | None = None,
    capacities: Sequence[int] | None = None,
) -> None:
    """Write what the kernel shows for CPUs of (package, core, highest clock in kHz); None leaves the clock out."""
    for name, values in (("topology/cluster_id", clusters), ("cpu_capacity", capacities)):
        for cpu, value in enumerate(values or ()):
            path = folder / f"cpu{cpu}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
    for cpu, (package, core, clock) in enumerate(cores):
        topology = folder / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True, exist_ok=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
        if clock is not None:
            (folder / f"cpu{cpu}" / "cpufreq").mkdir()
            (folder / f"cpu{cpu}" / "cpufreq" / "cpuinfo_max_freq").write_text(f"{clock}\n")


MACHINES: dict[str, tuple[Sequence[tuple[int, int, int | None]], int]] = {
    "a laptop with two threads a core": ([(0, core, 4_000_000) for core in (0, 0, 1, 1, 2, 2, 3, 3)], 4),
    "two sockets": ([(package, core, None) for package in (0, 1) for core in (0, 1)], 4),
    "a phone: one prime, three big, four little": (
        [(0, n, 1_800_000) for n in range(4)]
        + [(0, n, 2_800_000) for n in range(4, 7)] + [(0, 7, 3_200_000)], 4,
    ),
    "a phone: two big, six little": ([(0, n, 1_700_000) for n in range(6)] + [(0, n, 2_200_000) for n in (6, 7)], 2),
    "a phone: one prime, four big, three little": (
        [(0, n, 2_000_000) for n in range(3)] + [(0, n, 2_800_000) for n in range(3, 7)] + [(0, 7, 3_190_000)], 5,
    ),
    "a phone: two prime, two big, four little": (
        [(0, n, 1_803_000) for n in range(4)]
        + [(0, n, 2_253_000) for n in (4, 5)] + [(0, n, 2_802_000) for n in (6, 7)], 4,
    ),
    "a phone of big cores only": ([(0, n, 3_530_000) for n in range(6)] + [(0, n, 4_320_000) for n in (6, 7)], 8),
    "a laptop with efficiency cores": (
        [(0, n, 5_000_000) for n in range(4)] + [(0, 8 + n, 3_500_000) for n in range(8)], 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MACHINES)
def test_physical_fast_cores_are_counted(name: str, tmp_path: Path) -> None:
    cores, expected = MACHINES[name]
    describe(tmp_path, cores)
    everything = range(len(cores))
    assert linux_threads(tmp_path, list(everything)) == expected
    assert linux_cores(tmp_path, everything) == len({core[:2] for core in cores})


def test_only_cores_the_process_may_use_count(tmp_path: Path) -> None:
    describe(tmp_path, [(0, core, 4_000_000) for core in range(8)])
    assert linux_threads(tmp_path, [2, 5]) == 2


def test_a_kernel_that_tells_nothing_still_gives_the_cpus(tmp_path: Path) -> None:
    assert linux_threads(tmp_path / "nothing", [0, 1, 2]) == 3


LITTLE, BIG, PRIME = 2_016_000, 2_803_000, 3_187_000
PHONE = [(0, n, LITTLE) for n in range(4)] + [(0, n, BIG) for n in range(3)] + [(0, 0, PRIME)]
"""As Linux 6 shows one: in each cluster, cores are counted anew."""
CLUSTERS = [0, 0, 0, 0, 1, 1, 1, 2]


def test_cores_that_are_counted_anew_in_each_cluster_are_all_counted(tmp_path: Path) -> None:
    describe(tmp_path, PHONE, clusters=CLUSTERS)
    assert linux_threads(tmp_path, range(8)) == 4
    assert fast_cpus(tmp_path, range(8)) == [4, 5, 6, 7]


def test_threads_of_one_core_are_in_one_cluster(tmp_path: Path) -> None:
    describe(tmp_path, [(0, core, 4_000_000) for core in (0, 0, 1, 1)], clusters=[0, 0, 8, 8])
    assert linux_threads(tmp_path, range(4)) == 2


def test_little_cores_with_nearly_the_clock_of_big_ones_are_told_by_their_capacity(tmp_path: Path) -> None:
    cores = [(0, n, 2_000_000) for n in range(6)] + [(0, n, 2_200_000) for n in (6, 7)]
    describe(tmp_path, cores, capacities=[384] * 6 + [1024] * 2)
    assert linux_threads(tmp_path, range(8)) == 2


@pytest.mark.parametrize(
    ("online", "threads"),
    [([0, 1, 2, 3, 4, 5, 6], 3), ([0, 1, 2, 3], 4), ([0, 1, 4], 1), ([2], 1)],
    ids=["the prime core is off", "only little ones are on", "one big one is on", "one core is on"],
)
def test_cores_that_are_off_do_not_count(online: list[int], threads: int, tmp_path: Path) -> None:
    describe(tmp_path, PHONE, clusters=CLUSTERS)
    assert linux_threads(tmp_path, online, phone=True) == threads


def test_a_core_whose_clock_is_not_told_does_not_count_beside_others(tmp_path: Path) -> None:
    describe(tmp_path, [(0, 0, None), (0, 1, PRIME), (0, 2, PRIME)])
    assert linux_threads(tmp_path, range(3), phone=True) == 2


@pytest.mark.parametrize(("allowed", "threads"), [(8, 4), (6, 3), (1, 1)])
def test_on_a_phone_whose_sandbox_shows_nothing_half_of_the_cores_are_taken(
    allowed: int, threads: int, tmp_path: Path
) -> None:
    assert linux_threads(tmp_path / "nothing", range(allowed), phone=True) == threads
    describe(tmp_path, [(0, core, None) for core in range(allowed)])
    assert linux_threads(tmp_path, range(allowed), phone=True) == threads


def test_files_that_may_not_be_read_are_as_if_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is made up."""
    describe(tmp_path, PHONE, clusters=CLUSTERS)
    read_text = Path.read_text

    def refused(path: Path, *arguments: Any, **options: Any) -> str:
        if path.parent.name == "cpufreq":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    assert linux_threads(tmp_path, range(8), phone=True) == 4


@pytest.mark.parametrize(("arguments", "threads"), [([], 3), (["--threads", "2"], 2)])
def test_whoever_knows_better_sets_the_threads(
    arguments: list[str], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESPEC_THREADS", "3")
    opened = []

    def load(model: object, **options: Any) -> None:
        opened.append(options["threads"])
        raise InvalidRequest("that is all that is asked here")

    monkeypatch.setattr("edgespec.cli.build.load", load)
    CliRunner().invoke(main, ["generate", "-p", "x", *arguments])
    assert opened == [threads]


def test_android_is_known_by_its_name_or_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_ROOT", raising=False)
    assert not is_android()
    monkeypatch.setenv("ANDROID_ROOT", "/system")
    assert is_android()
    monkeypatch.delenv("ANDROID_ROOT")
    monkeypatch.setattr(sys, "platform", "android")
    assert is_android()


def test_this_machine() -> None:
    assert default_threads() >= 1
    assert cpu_name()
    assert cache_directory().name == "edgespec"


def test_a_mac_whose_path_lacks_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    """cron's, say: its PATH has no /usr/sbin."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("PATH", "/nowhere")
    assert default_threads() >= 1
    cpu_name()
