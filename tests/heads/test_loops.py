"""Answers that repeat themselves are found, where they are known to, and others are not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgespec.heads.loops import end_of, loops


def piece(token: int) -> bytes:
    return bytes([token])


def first_end(text: str) -> int | None:
    return end_of(list(text.encode()), piece)


TEXT = "The quick brown fox jumps over the lazy dog, and nothing in here is said twice but for letters and words."


def test_ordinary_text_does_not_loop() -> None:
    assert first_end(TEXT) is None
    assert first_end("yes\nno\nyes\nno\nyes, well\n" + TEXT) is None, "short lines may come again"
    assert first_end("a = 1\n" + "-" * 20 + "\n" + TEXT) is None


@given(period=st.integers(1, 48), times=st.integers(3, 9))
def test_a_tail_that_repeats(period: int, times: int) -> None:
    unit = list(range(128, 128 + period))
    start = list(TEXT.encode())
    answer = start + unit * (times + 40 // period + 1)
    end = end_of(answer, piece)
    assert end is not None and len(start) < end <= len(start) + 3 * period + 24 + 8
    assert loops(answer[:end], piece) and not loops(answer[: end - 8], piece)
    assert end_of(start + unit * 2, piece) is None or period == 1


def test_one_line_thrice() -> None:
    line = "I am sorry to hear that.\n"
    between = "Number one.\n", "Something else.\n"
    text = line + between[0] + line + between[1] + line + TEXT
    end = first_end(text)
    assert end is not None and text[:end].count(line) == 3
    assert first_end(line + between[0] + line + TEXT) is None
