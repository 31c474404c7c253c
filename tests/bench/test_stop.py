"""A run that is stopped, in the background of a shell too, ends at once with its servers, and goes on later."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgespec.system import child
from tests.bench.test_run import BENCH, here
from tests.present import present

__all__ = ["here"]

STUCK = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a server in the middle of a long forward pass

def wait_once(prompt):
    if len(prompt) > 20 and not os.path.exists("stuck"):
        with open("stuck.part", "w"):
            os.rename("stuck.part", "stuck")
        time.sleep(600)
"""


@pytest.fixture
def stuck(here: Path) -> Iterator[Path]:
    """The server hangs at the second prompt, once."""
    server = (here / "server").read_text()
    head, _, rest = server.partition("\n")
    rest = rest.replace("tokens = [7]", "wait_once(asked['prompt'])\n        tokens = [7]")
    (here / "server").write_text(f"{head}\n{STUCK}\n{rest}")
    (here / "p.jsonl").write_text("\n".join(json.dumps({"turns": [text]}) for text in ("a", "w300 " * 4)))
    yield here


def _start(*arguments: str, ignored: bool) -> subprocess.Popen[str]:
    """The program, as a shell starts it in the background where signals are `ignored`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "edgespec", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": str(child.IMPORT_ROOT)},
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def _children(pid: int) -> set[int]:
    """The processes that this one started, with theirs."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found: set[int] = set()
    while more := {one for one, parent in parents if parent in {pid, *found}} - found:
        found |= more
    return found


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("number", "ignored"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, True)], ids=str
)
def test_it_ends_at_once_with_its_servers_and_the_same_command_continues(
    stuck: Path, number: signal.Signals, ignored: bool
) -> None:
    command = (*BENCH, "--peer", "llama-cpp-python", "--peer", "ngram-simple", "--server", "server", "--json", "r.json")
    process = _start(*command, ignored=ignored)
    try:
        deadline = time.monotonic() + 120
        while not (stuck / "stuck").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        servers = _children(process.pid)
        assert len(servers) == 2
        begun = time.monotonic()
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
        assert time.monotonic() - begun < 10, "some 0.2 s where nothing else runs"
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + number
    assert "stopped; every prompt that was measured in full is in r.json" in printed and "Traceback" not in printed
    assert not any(map(_runs, servers))
    assert len(json.loads((stuck / "r.json").read_text())["prompts"]) == 1
    assert not list(stuck.glob(".*"))

    again = _start(*command, ignored=ignored)
    _, printed = again.communicate(timeout=120)
    assert again.returncode == 0, printed
    result = json.loads((stuck / "r.json").read_text())
    assert len(result["prompts"]) == 2 and all(row["answers"]["ngram-simple"] for row in result["prompts"])
    assert present(result["memory"]["ngram-simple"]) > 0
