"""Signals end a program at once, in the background too; where an exception would be lost they wait."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from edgespec.system.signals import EARLY_END, ENDING, Terminated, delayed_signals, heeded_signals

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def heeding_ctrl_c() -> Iterator[None]:
    """As in a terminal: in the background of a shell, programs start deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_and_can_be_asked_for() -> None:
    with pytest.raises(KeyboardInterrupt), delayed_signals() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_ones_own_is_called_afterwards_and_is_no_ctrl_c() -> None:
    came: list[int] = []

    def mine(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, mine) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with delayed_signals() as interrupted:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupted()
            assert came == []
        assert sorted(came) == sorted([signal.SIGINT, signal.SIGTERM])
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_handlers_come_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="within"), delayed_signals():
        raise ValueError("within")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_no_signal_is_touched() -> None:
    found: list[object] = []

    def work() -> None:
        with delayed_signals() as interrupted:
            found.extend([signal.getsignal(signal.SIGINT), interrupted()])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler, False]


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)],
)
def test_a_program_ends_by_an_exception(number: signal.Signals, raised: type[BaseException]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts a job in the background
    before = [signal.getsignal(number) for number in NUMBERS]
    with pytest.raises(raised) as info, heeded_signals():
        os.kill(os.getpid(), number)
    assert raised is KeyboardInterrupt or info.value.args == (128 + number,)
    assert [signal.getsignal(number) for number in NUMBERS] == before
    assert threading.active_count() == 1 or not any(thread.name == "signals" for thread in threading.enumerate())


def test_the_clean_up_after_a_signal_is_not_interrupted_by_a_second_one() -> None:
    cleaned = False
    with pytest.raises(Terminated), heeded_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), number)
            cleaned = True
    assert cleaned


def test_what_the_caller_handles_and_what_nohup_ignores_stays() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with heeded_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, hangup)


def _ending_within(seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not ctypes.string_at(ENDING) and time.monotonic() < end:
        time.sleep(0.001)
    return bool(ctypes.string_at(ENDING))


def _nothing() -> None: ...


def _event_loop() -> None:
    """What a prompt of prompt_toolkit does: asyncio takes signals over, and gives none back."""
    loop = asyncio.new_event_loop()
    loop.add_signal_handler(signal.SIGUSR1, _nothing)
    loop.close()


@pytest.mark.parametrize("before", [_nothing, _event_loop])
@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_c_code_is_told_while_python_waits_for_it(
    number: signal.Signals, raised: type[BaseException], before: Callable[[], None]
) -> None:
    marked: list[float] = []

    def look() -> None:
        if _ending_within(30):
            marked.append(time.monotonic())

    looking, sending = threading.Thread(target=look), threading.Timer(0.1, os.kill, (os.getpid(), number))
    with pytest.raises(raised), heeded_signals():
        before()
        with EARLY_END:
            looking.start()
            sending.start()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)  # a call into C of two seconds or so
    looking.join()
    assert time.monotonic() - marked[0] > 0.1


def test_the_exception_comes_at_the_end_of_the_call_and_not_in_a_callback() -> None:
    """In a callback it would be lost."""
    came: list[str] = []

    @ctypes.CFUNCTYPE(None)  # type: ignore[untyped-decorator]
    def callback() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        came.append("the callback's end")

    with pytest.raises(KeyboardInterrupt), heeded_signals():
        with EARLY_END:
            callback()
        raise AssertionError("not reached")
    assert came == ["the callback's end"]
    with heeded_signals(), EARLY_END:
        pass  # the next call is not interrupted


def test_c_code_is_not_told_of_a_signal_that_somebody_else_handles() -> None:
    with heeded_signals(), EARLY_END:
        before = signal.signal(signal.SIGINT, lambda number, frame: None)
        os.kill(os.getpid(), signal.SIGINT)
        assert not _ending_within(0.1)
        signal.signal(signal.SIGINT, before)


def test_c_code_of_later_work_is_not_told_of_an_earlier_signal() -> None:
    with pytest.raises(Terminated), heeded_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert not ctypes.string_at(ENDING)


def test_in_another_thread_signals_are_left_alone() -> None:
    found: list[object] = []

    def work() -> None:
        with heeded_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_all_handlers_come_back_where_a_signal_comes_between_two(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.signal(number, lambda number, frame: None) for number in NUMBERS}
    mine = {number: signal.getsignal(number) for number in NUMBERS}
    install = signal.signal
    raised: list[int] = []

    def interrupted(number: int, handler: object) -> object:
        installed = install(number, handler)  # type: ignore[arg-type]
        if not raised:
            raised.append(number)
            raise KeyboardInterrupt
        return installed

    try:
        with pytest.raises(KeyboardInterrupt), delayed_signals():
            monkeypatch.setattr(signal, "signal", interrupted)
        monkeypatch.undo()
        assert raised and {number: signal.getsignal(number) for number in NUMBERS} == mine
    finally:
        monkeypatch.undo()
        for number, handler in before.items():
            signal.signal(number, handler)
