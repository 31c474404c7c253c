"""Notices an answer that says the same again and again."""

from __future__ import annotations

_TIMES = 10
"""Repetitions before it is noticed."""
_LONGEST = 200
"""The longest text whose repetition is noticed, in characters."""
_SHORTEST_RUN, _SHORTEST_RUN_OF_SIGNS = 80, 400
"""Characters that are repeated in all; more where they are no words, such as a line of dashes."""
_EVERY = 64
"""Characters between two looks."""


class RepetitionWatch:
    """Whether the end of a text is one line, or a few words, at least ten times in a row. `notices` says so once."""

    def __init__(self) -> None:
        self._end = ""
        self._unseen = 0
        self._noticed = False

    def notices(self, text: str) -> bool:
        """Whether the answer repeats itself, now that it goes on with `text`; True only the first time."""
        if self._noticed:
            return False
        self._end = (self._end + text)[-_TIMES * _LONGEST :]
        self._unseen += len(text)
        if self._unseen < _EVERY:
            return False
        self._unseen = 0
        self._noticed = ends_repeating(self._end)
        return self._noticed


def ends_repeating(text: str, times: int = _TIMES, longest: int = _LONGEST) -> bool:
    """Whether `text` ends with one piece of at most `longest` characters, `times` times or more in a row.

    In the prefix function p of the reversed text (Knuth, Morris, Pratt), an end of length n has the period n - p[n].
    """
    reversed_text = text[::-1]
    prefix = [0] * len(reversed_text)
    for index in range(1, len(reversed_text)):
        length = prefix[index - 1]
        while length and reversed_text[index] != reversed_text[length]:
            length = prefix[length - 1]
        prefix[index] = length + (reversed_text[index] == reversed_text[length])
        size = index + 1
        period = size - prefix[index]
        if size >= times * period and period <= longest:
            words = any(map(str.isalnum, reversed_text[:period]))
            if size >= (_SHORTEST_RUN if words else _SHORTEST_RUN_OF_SIGNS):
                return True
    return False
