"""Finds where an answer begins to repeat itself: such answers flatter every drafter, and teach heads little."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INTERVAL = 8
"""Tokens between two looks at an answer."""

_LONGEST_PERIOD = 48
_LEAST_TOKENS = 24
_LEAST_TIMES = 3
"""The tail loops if up to so many tokens are there so many times in a row, and these are so many together."""

_LEAST_CHARACTERS = 9
"""Characters of a line, without blanks around it, from which on it is a loop to have it thrice."""


def loops(answer: Sequence[int], piece: Callable[[int], bytes]) -> bool:
    """Whether an answer has one line thrice, or its tail repeats itself. Looked at every 8 tokens, else False.

    `piece` gives the bytes of a token.
    """
    return not len(answer) % _INTERVAL and (_tail_repeats(answer) or _line_thrice(answer, piece))


def end_of(answer: Sequence[int], piece: Callable[[int], bytes]) -> int | None:
    """The number of tokens after which an answer is known to loop; None where it does not."""
    ends = range(_INTERVAL, len(answer) + 1, _INTERVAL)
    return next((end for end in ends if loops(answer[:end], piece)), None)


def _tail_repeats(answer: Sequence[int]) -> bool:
    for period in range(1, _LONGEST_PERIOD + 1):
        length = period * max(_LEAST_TIMES, -(-_LEAST_TOKENS // period))
        if length > len(answer):
            return False
        if answer[-1] != answer[-1 - period]:  # most periods end here, without a copy
            continue
        tail = answer[len(answer) - length :]
        if tail[period:] == tail[:-period]:
            return True
    return False


def _line_thrice(answer: Sequence[int], piece: Callable[[int], bytes]) -> bool:
    """Whether a complete line is there thrice."""
    lines = [line.strip() for line in b"".join(map(piece, answer)).split(b"\n")]
    ended = lines[:-1]
    return any(len(line) >= _LEAST_CHARACTERS and ended.count(line) >= _LEAST_TIMES for line in set(ended))
