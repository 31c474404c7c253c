"""Signals that end a program: an exception at once, in the background too; later where an exception would be lost."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

_ending = ctypes.create_string_buffer(2)

ENDING = ctypes.addressof(_ending)
"""The address of a C string, which is empty until a signal comes that ends the program: see `EARLY_END`."""


class Terminated(SystemExit):
    """SIGTERM or SIGHUP came. The exit status is that of a shell: 128 and the signal's number."""


@contextlib.contextmanager
def heeded_signals() -> Iterator[None]:
    """In this context, Ctrl-C raises KeyboardInterrupt, and SIGTERM and SIGHUP raise Terminated: for programs.

    Shells start background jobs with SIGINT ignored: whoever sends it to one means it, so it is heeded all the same.
    SIGHUP stays ignored where it is, by nohup. Signals that the caller handles, or of another thread than the main one,
    are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: handler for number in _NUMBERS if (handler := signal.getsignal(number)) is not None}
    for number, handler in before.items():
        if handler in ((signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler) if number == signal.SIGINT
                       else (signal.SIG_DFL,)):  # fmt: skip
            signal.signal(number, _end)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watcher = threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True)
    watcher.start()
    earlier_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    EARLY_END.writer = writer
    try:
        yield
    finally:
        EARLY_END.writer = -1
        signal.set_wakeup_fd(earlier_writer)
        os.close(writer)
        watcher.join()
        os.close(reader)
        _ending[0] = b"\0"  # else passes of other threads would end early from now on
        for number, handler in before.items():
            signal.signal(number, handler)


class _EarlyEnd:
    """A context for a call into C that looks at ENDING and returns early where it is not empty.

    Python calls a handler only when such a call returns, or inside a callback of it, where an exception is lost. So the
    string is filled by a thread, and the exception is raised at the end of this context.
    """

    def __init__(self) -> None:
        self.entered = False
        self.writer = -1
        """The end of the pipe that Python writes signals into; -1 where there is none."""

    def __enter__(self) -> None:
        if threading.get_ident() == threading.main_thread().ident:  # the only one that gets signals
            if self.writer >= 0:  # again: an event loop that has ended, of a prompt say, left none behind
                signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
            _ending[0] = b"\0"
            self.entered = True

    def __exit__(self, *_: object) -> None:
        if self.entered and threading.get_ident() == threading.main_thread().ident:
            self.entered = False
            if number := _ending.raw[0]:
                raise _exception(number)


EARLY_END = _EarlyEnd()


def _end(number: int, _frame: FrameType | None) -> None:
    _ending[0] = bytes((number,))
    if not EARLY_END.entered:
        raise _exception(number)


def _exception(number: int) -> BaseException:
    """What the signal raises. A terminal that closes may send two: the second must not interrupt the clean-up."""
    if number == signal.SIGINT:
        return KeyboardInterrupt()
    for other in _NUMBERS:
        if other != signal.SIGINT and signal.getsignal(other) is _end:
            signal.signal(other, signal.SIG_IGN)
    return Terminated(128 + number)


def _watch(reader: int) -> None:
    """Fill ENDING for each signal that ends the program; Python writes signals into the pipe, up to its end."""
    while numbers := os.read(reader, 64):
        for number in numbers:
            if signal.getsignal(number) is _end:
                _ending[0] = bytes((number,))


@contextlib.contextmanager
def delayed_signals() -> Iterator[Callable[[], bool]]:
    """Delay signals until the end of the block; yields a function that says whether one came that will raise.

    Python would run a handler inside a callback of llama.cpp, where its exception is lost.
    """
    numbers = _NUMBERS if threading.current_thread() is threading.main_thread() else ()
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    received: list[int] = []
    try:
        for number in handlers:
            signal.signal(number, lambda number, _frame: received.append(number))
        yield lambda: any(handlers[number] in (_end, signal.default_int_handler) for number in received)
    finally:
        _restore(handlers)
        for number in received:
            handlers[number](number, None)


def _restore(handlers: dict[int, Any]) -> None:
    """Install the handlers, all of them: a signal between two may raise."""
    remaining = dict(handlers)
    try:
        while remaining:
            number = next(iter(remaining))
            signal.signal(number, remaining[number])
            del remaining[number]
    finally:
        if remaining:
            _restore(remaining)
