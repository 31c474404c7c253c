"""When a drafter model begins to read a text.

Its first guess in a text costs the reading of what comes before, which is as long as several evaluations of the target.
Later guesses have to earn that back; in a text that ends soon, or repeats what was said, they do not. Times are in
units of T(1), speeds in those of plain decoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_HORIZON = 64
"""An answer is expected to go on for as many tokens as it has, and for this many at least."""

_REPAID = 2.0
"""Reading must promise to be earned back so many times: how long the answer will be, and how good the guesses, is not
known yet."""

_LEAST_SPEED = 1.3
"""Nor is it known how good a model's guesses will be here; where the average text just pays, half of all do not."""

_WAIT = 2
"""Tokens of an answer after which its speed without a model tells whether it repeats what was said."""

_MEMORY = 0.9
"""What is left of that speed after each block."""

_CATCH_UP = 1.0
"""Reading that takes longer is not catching up with a text but beginning it."""

_EXPLORED = 0.01
_LONG = 32
"""That share of the time that passed without a model may go into reading for one whose guesses may pay, though not so
surely: else it would never be known how good they are. Only in an answer that is so long already."""

_MOST_EARNED = 15.0
"""Gains beyond this are not saved up for later texts."""


class Debts:
    """What the models called `names` owe for reading, over all answers: their gains pay it back."""

    def __init__(self, names: Iterable[str]) -> None:
        self.of = dict.fromkeys(names, 0.0)
        self.unhelped = 0.0
        """The time that passed without a model, since one read."""

    def earned(self, name: str, gain: float) -> None:
        """A model gained so much time over plain decoding, or lost it."""
        if name in self.of:
            self.of[name] = max(self.of[name] - gain, -_MOST_EARNED)


class Reading:
    """Allows models to read one answer's text. What one reads is its debt; before that is paid back, it begins no
    other text."""

    def __init__(self, debts: Debts) -> None:
        self._debts = debts
        self._answered = 0
        self._tokens = self._time = 1.0

    def answered(self, tokens: int, seconds: float | None) -> None:
        """A block of so many tokens was emitted: in `seconds` where no model was asked, None where one was."""
        self._answered += tokens
        if seconds is not None:
            self._debts.unhelped += seconds
            self._tokens = self._tokens * _MEMORY + tokens
            self._time = self._time * _MEMORY + seconds

    def pays(self, name: str, once: float, speed: float, likely: float, room: int) -> bool:
        """Whether to read for `once`, if the answer, of at most `room` tokens more, may have that `speed` from then on.

        Most answers will have the speed `likely`. How long this one is to be nobody knows, so reading waits, as in the
        ski rental problem, until so much of it is there that having read at once would have paid: an answer that ends
        sooner is not slowed down, and of a longer one no more is lost than that again. Where that never comes, because
        most answers would not pay, it is read now and then all the same, to see whether this one does.
        """
        alone = self._time / self._tokens
        explored = self._answered >= _LONG and once <= _EXPLORED * self._debts.unhelped
        if self._answered < _WAIT or (not explored and self._answered * (alone - 1 / likely) < once):
            return False
        if min(room, max(_HORIZON, self._answered)) * (alone - 1 / speed) < _REPAID * once:
            return False
        return once <= _CATCH_UP or explored or (speed >= _LEAST_SPEED and self._debts.of[name] <= 0.0)

    @contextmanager
    def lent(self, name: str, once: float) -> Iterator[float]:
        """While it reads: what of that becomes a debt, and is no part of what its guesses cost.

        Where reading is interrupted, there is no debt.
        """
        debt = once if once > _CATCH_UP else 0.0
        yield debt
        self._debts.of[name] += debt
        if debt:
            self._debts.unhelped = 0.0
