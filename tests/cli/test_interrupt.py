"""Ctrl-C stops an answer; pressed again, the program; afterwards it is what it was. Signals end any command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from edgespec import Session
from edgespec.cli.interrupt import cancelled_by_ctrl_c, message_when_stopped
from edgespec.system.child import IMPORT_ROOT
from edgespec.system.signals import Terminated
from tests.present import present


class _Answer:
    """Counts how often it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.fixture(autouse=True)
def heeding_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_cancels_and_the_second_interrupts() -> None:
    answer = _Answer()
    with pytest.raises(KeyboardInterrupt), cancelled_by_ctrl_c(cast(Session, answer)):
        _ctrl_c()
        assert answer.cancelled == 1
        _ctrl_c()
    assert answer.cancelled == 1


def test_afterwards_it_is_what_it_was() -> None:
    answer = _Answer()
    with cancelled_by_ctrl_c(cast(Session, answer)):
        _ctrl_c()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(ValueError, match="within"), cancelled_by_ctrl_c(cast(Session, answer)):
        raise ValueError("within")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        _ctrl_c()


def test_each_answer_has_a_first_ctrl_c_of_its_own() -> None:
    for _ in range(3):
        answer = _Answer()
        with cancelled_by_ctrl_c(cast(Session, answer)):
            _ctrl_c()
        assert answer.cancelled == 1


PROGRAM = """
import sys, time
from pathlib import Path
from edgespec.cli import main
from edgespec.cli.interrupt import message_when_stopped
from edgespec.system import child
from edgespec.system.files import replacing

@main.command()
def wait():
    with message_when_stopped(lambda: "all is well"), replacing(Path("half-written")) as temporary:
        temporary.touch()
        running = child.start([sys.executable, "-c", "import time; time.sleep(600)"])
        print(running.pid, flush=True)
        time.sleep(600)

main(["wait"])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=str)
def test_a_signal_ends_any_command_in_the_background_and_what_it_began(tmp_path: Path, number: signal.Signals) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does; programs inherit it
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(IMPORT_ROOT)},
    ) as process:  # fmt: skip
        started = int(present(process.stdout).readline())
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
        assert present(process.stderr).read() == "\nstopped; all is well\n"
    with pytest.raises(ProcessLookupError):
        os.kill(started, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Terminated(143), ValueError("a mistake")], ids=repr)
def test_a_stop_is_told_and_an_error_is_none(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(error)), message_when_stopped(lambda: "kept"):
        raise error
    assert capsys.readouterr().err == ("" if isinstance(error, ValueError) else "\nstopped; kept\n")
