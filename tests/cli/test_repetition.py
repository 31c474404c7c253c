"""An answer that repeats itself is noticed once, and no other is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.cli.chat.repetition import RepetitionWatch

CODE = "".join(f"    assert add({number}, {number + 1}) == {2 * number + 1}\n" for number in range(40))
PROSE = (
    "The sea is a mirror. It shows the sky by day and the stars by night, and whoever looks into it for long sees "
    "neither, but the years that have gone by since he first stood there with his father's hand in his.\n"
) * 3


def noticed(text: str, step: int = 7) -> int:
    watch = RepetitionWatch()
    return sum(watch.notices(text[start : start + step]) for start in range(0, len(text), step))


@pytest.mark.parametrize(
    "piece",
    [
        "A tale of the soul, a tale of the soul,\n",
        "ha ",
        "the sea and the sea and ",
        "line\n\n",
        "- \n" * 60,
        "\n" * 200,
    ],
)
def test_a_line_or_a_few_words_again_and_again(piece: str) -> None:
    assert noticed(PROSE[:150] + piece * 80) == 1


@pytest.mark.parametrize("text", [PROSE, CODE, "-" * 80 + "\n", "|" + "---|" * 20, "x = [" + "0, " * 20 + "]\n", ""])
def test_an_answer_like_others(text: str) -> None:
    assert noticed(text) == 0


def test_nine_times_is_not_yet_ten() -> None:
    piece = "A tale of the soul, told anew:\n"
    assert noticed(piece * 9) == 0 and noticed(piece * 14) == 1


@given(st.text("abcdefgh ,.\n", min_size=8, max_size=150), st.integers(1, 30), st.integers(0, 2**32))
def test_every_period_is_noticed_however_the_text_is_cut(piece: str, step: int, seed: int) -> None:
    """Unless the piece is blank or signs alone, which count only in long runs."""
    letters = "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz ", k=150))
    watch = RepetitionWatch()
    assert not any(watch.notices(letter) for letter in letters)
    assert noticed(letters + ("x" + piece) * 26, step) == 1
