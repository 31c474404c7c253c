"""Ctrl-C stops an answer; pressed again, it stops the program; afterwards it is what it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import cast

import pytest

from edgespec import Session
from edgespec.cli.interrupt import cancelled_by_ctrl_c


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
