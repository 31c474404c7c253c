"""A line that is drawn over and over, and the terminal that it is for."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.cli import terminal
from edgespec.cli.terminal import columns, redraw


@pytest.mark.parametrize(
    ("line", "shown"),
    [("", ""), ("short", "short"), ("x" * 19, "x" * 19), ("x" * 20, "x" * 19), ("ü" * 50, "ü" * 19)],
)
def test_a_line_fits_into_the_terminal_or_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, shown: str
) -> None:
    """In the last column some terminals begin another line, which nothing would wipe."""
    monkeypatch.setattr(terminal, "columns", lambda: 20)
    redraw(line)
    captured = capsys.readouterr()
    assert captured.err == f"\r{shown}", "without the escape, since this is no terminal"
    assert captured.out == "", "what is piped on stays clean"


def test_the_width_is_that_of_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", os.fdopen(os.dup(2), "w"))
    monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((33, 5)))
    assert columns() == 33
    sys.stderr.close()


@pytest.mark.parametrize("size", [OSError(25, "not a terminal"), ValueError("closed"), os.terminal_size((0, 0))])
def test_where_nothing_tells_the_width_it_is_the_usual_one(
    monkeypatch: pytest.MonkeyPatch, size: os.terminal_size | Exception
) -> None:
    def get_terminal_size(descriptor: int) -> os.terminal_size:
        if isinstance(size, Exception):
            raise size
        return size

    monkeypatch.setattr(os, "get_terminal_size", get_terminal_size)
    monkeypatch.setenv("COLUMNS", "57")
    assert columns() == 57


@given(st.integers(1, 5))
def test_a_terminal_of_hardly_any_width_shows_what_fits(width: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(terminal, "columns", lambda: width)
        drawn: list[str] = []
        monkeypatch.setattr("click.echo", lambda text, **_: drawn.append(text))
        redraw("reading the prompt")
        assert drawn == [f"\r\x1b[K{'reading the prompt'[: width - 1]}"]
