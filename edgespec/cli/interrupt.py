"""Ctrl-C stops an answer, not the program. Other work is stopped with a line that says what is left of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from edgespec.cli.terminal import echo
from edgespec.system.signals import Terminated


class Cancellable(Protocol):
    """An answer, or several."""

    def cancel(self) -> None:
        """End it after the forward pass in progress."""
        ...


@contextmanager
def cancelled_by_ctrl_c(answer: Cancellable) -> Iterator[None]:
    """In this context, the first Ctrl-C ends `answer` after the forward pass in progress, the second interrupts."""
    cancelled = False

    def cancel(_signal: int, _frame: FrameType | None) -> None:
        nonlocal cancelled
        if cancelled:
            raise KeyboardInterrupt
        answer.cancel()
        cancelled = True

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def message_when_stopped(message: Callable[[], str]) -> Iterator[None]:
    """In this context, Ctrl-C and SIGTERM print one line on stderr: what is kept, and how the work goes on."""
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        echo(f"\nstopped; {message()}", err=True)
        raise
