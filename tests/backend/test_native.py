"""llama.cpp's log, joined into lines; its failures in our words."""

from __future__ import annotations

import ctypes
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.backend import native
from edgespec.errors import EvaluationError

INFO, WARN, ERROR, CONTINUED = 2, 3, 4, 5


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.levelno, record.getMessage()))


@pytest.fixture(scope="module")
def log() -> _Lines:
    return _Lines()


def _logged(log: _Lines, *pieces: tuple[int, bytes]) -> tuple[list[tuple[int, str]], str]:
    """The lines that come of these pieces, with their levels, and the last error."""
    log.found.clear()
    logger = logging.getLogger("edgespec.llama_cpp")
    before = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG)
    collector = native._LogCollector()
    try:
        for level, text in pieces:
            collector.receive(level, text, None)
        return list(log.found), collector.last_error
    finally:
        logger.removeHandler(log)
        logger.setLevel(before)


_WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12)


@given(st.lists(st.tuples(st.sampled_from([INFO, WARN, ERROR]), st.lists(_WORDS, min_size=1, max_size=4)), max_size=6))
def test_pieces_become_the_lines_they_are_of(log: _Lines, lines: list[tuple[int, list[str]]]) -> None:
    pieces: list[tuple[int, bytes]] = []
    for level, words in lines:
        piece_levels = [level] + [CONTINUED] * (len(words) - 1)
        pieces += [(kind, word.encode()) for kind, word in zip(piece_levels, words, strict=True)]
        pieces[-1] = (pieces[-1][0], pieces[-1][1] + b"\n")
    found, last_error = _logged(log, *pieces)
    levels = {INFO: logging.DEBUG, WARN: logging.WARNING, ERROR: logging.ERROR}
    assert found == [(levels[level], "".join(words)) for level, words in lines]
    errors = ["".join(words) for level, words in lines if level == ERROR]
    assert last_error == (errors[-1] if errors else "")


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([(INFO, b"no end"), (ERROR, b"next\n")], [(logging.DEBUG, "no end"), (logging.ERROR, "next")]),
        ([(INFO, b"\n"), (INFO, b"  \n"), (CONTINUED, b"\n")], []),
        ([(ERROR, b"dots"), (CONTINUED, b"."), (CONTINUED, b".")], []),  # not over yet
        ([(99, b"unheard of\n")], [(logging.DEBUG, "unheard of")]),
        ([(WARN, b"caf\xc3\xa9 \xff\n")], [(logging.WARNING, "café \N{REPLACEMENT CHARACTER}")]),
        ([(WARN, b"100% of %s\n")], [(logging.WARNING, "100% of %s")]),
    ],
)
def test_pieces_as_they_come(log: _Lines, pieces: list[tuple[int, bytes]], lines: list[tuple[int, str]]) -> None:
    assert _logged(log, *pieces)[0] == lines


def test_an_error_explains_only_the_call_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_collector", native._LogCollector())
    native._collector.receive(ERROR, b"no memory\n", None)
    assert native.last_error() == "no memory"
    native.forget_errors()
    assert native.last_error() == ""


@pytest.mark.parametrize(("said", "reason"), [(b"", "no reason given"), (b"no room in the cache\n", "no room in the")])
def test_an_evaluation_that_fails_says_where_and_why(monkeypatch: pytest.MonkeyPatch, said: bytes, reason: str) -> None:
    def fails(context: object, batch: object) -> int:
        native._collector.receive(ERROR, said, None)
        return 1

    monkeypatch.setattr("llama_cpp.llama_decode", fails)
    native._collector.receive(ERROR, b"of another call\n", None)
    batch = SimpleNamespace(n_tokens=3, pos=[17])
    with pytest.raises(EvaluationError, match=f"could not evaluate 3 tokens from position 17 on .status 1: {reason}"):
        native.decode(None, batch)


def test_an_evaluation_that_does_not_fail_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_cpp.llama_decode", lambda context, batch: 0)
    native.decode(None, SimpleNamespace())


def test_logits_are_looked_at_and_not_copied() -> None:
    numbers = (ctypes.c_float * 6)(0, 1, 2, 3, 4, 5)
    rows = native.logits(ctypes.cast(numbers, ctypes.POINTER(ctypes.c_float)), 2, 3)
    assert rows.tolist() == [[0, 1, 2], [3, 4, 5]]
    numbers[5] = 9.0
    assert rows[1, 2] == 9.0
    assert rows.dtype == np.float32


def test_the_build_is_named_with_what_its_speed_depends_on() -> None:
    name = native.build_name()
    assert name.startswith("llama-cpp-python ")
    assert "; " in name
    assert name == name.strip(" |")
