"""Ctrl-C stops an answer, not the program."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from edgespec import Session


@contextmanager
def cancelled_by_ctrl_c(session: Session) -> Iterator[None]:
    """In this context, the first Ctrl-C ends the answer after the forward pass in progress, the second interrupts."""

    def cancel(_signal: int, _frame: FrameType | None) -> None:
        session.cancel()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
