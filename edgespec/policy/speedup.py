"""What a draft can be expected to bring and to cost. Times are in units of T(1), speed-ups over plain decoding."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from itertools import accumulate
from operator import mul, neg

from edgespec.core import NOTHING, Draft
from edgespec.latency.model import LatencyModel
from edgespec.policy.acceptance import Acceptance, ChainAcceptance

MARGIN = 1.2
"""A draft must promise at least this speed-up: estimates are noisy, and the best of many is flattered by it."""

_UNPROVEN_MARGIN = 1.4
"""The same as long as a drafter's drafts have gained nothing: in a text that offers few chances, nothing is bet on the
doubtful ones; where there are many, the first good one is soon found."""

_SURE_MARGIN = 1.1
_SURE = 32
"""The same for kinds of guesses of which so many were judged: there the estimate is what happens."""

_HOPELESS = 0.02
"""Guesses that are reached less often than this are not worth weighing."""

UNKNOWN_ACCEPTANCE = 0.75
"""What a model's guess is taken for before any was judged."""

LIKELY_ACCEPTANCE = 0.6
"""The same where a whole reading is at stake, and not a few guesses: so good are most."""

HOPED_ACCEPTANCE = 0.95
"""How good a model may be that does not promise enough by what it is taken for."""

_DEEPEST = 16
"""A model's chain is planned no longer than this; it may become longer."""

_LOOK_AHEAD = 12
"""Guesses beyond the next one that may make up for what that one costs: T(n) has steps."""

_HOPE_AHEAD = 4
"""So far ahead a size that was never seen is taken for as cheap as it may be: of many such hopes, one is too high."""


def needed(judged: float, *, gained: bool) -> float:
    """The speed-up that a draft must promise; of its first guess's kind so many were judged, its drafter has gained."""
    if judged >= _SURE:
        return _SURE_MARGIN
    return MARGIN if gained else _UNPROVEN_MARGIN


class Prospects:
    """What every size of a chain promises, from none on, up to where it is all but sure to have ended.

    `spent` is the time that drafting took, part of what a block costs.
    """

    __slots__ = ("_expected", "_times", "chain", "gains", "hoped")

    def __init__(self, chain: Draft, acceptance: Acceptance, cost: LatencyModel, spent: float = 0.0) -> None:
        self.chain = chain
        reach = list(accumulate(acceptance.estimates(chain), mul, initial=1.0))  # the chance of so many right guesses
        del reach[bisect_right(reach, -_HOPELESS, key=neg) + 1 :]
        self._expected = list(accumulate(reach))
        self._times = [ratio + spent for ratio in cost.ratios()[: len(reach)]]
        self.gains = [tokens / time for tokens, time in zip(self._expected, self._times, strict=True)]
        """The expected speed-ups."""
        self.hoped = [
            tokens / (ratio + spent) for tokens, ratio in zip(self._expected, cost.optimistic(), strict=False)
        ]
        """The same if the evaluation is as cheap as it may be."""

    def best(self) -> int:
        """The size of the draft with the largest gain."""
        return max(range(1, len(self.gains)), key=self.gains.__getitem__)

    def best_first(self) -> Iterator[int]:
        """The sizes of all drafts, those of the largest gains first."""
        yield self.best()  # mostly the only one that is asked for
        yield from sorted(range(1, len(self.gains)), key=self.gains.__getitem__, reverse=True)[1:]

    def loss(self, size: int) -> float:
        """The expected amount by which the block falls short of what plain decoding makes in its time."""
        return shortfall(self._times[size], self._expected, size)

    def worst(self, size: int) -> float:
        """That amount where all of the draft is wrong."""
        return self._times[size] - 1.0


def worth_trying(options: Sequence[Prospects], gain: float, loss: float, allowed: float) -> tuple[Draft, float]:
    """A draft that may be better than one with that gain and loss, and how much more it may lose: what is `allowed`."""
    tried, price = NOTHING, 0.0
    for own in options:
        for size, hoped in enumerate(own.hoped):
            if hoped <= gain or hoped <= own.gains[size]:  # the latter: there is nothing to be learned of T(n)
                continue
            more = own.loss(size) - loss
            if more <= allowed:
                tried, price, gain = own.chain.first(size), more, hoped
    return tried, price


def shortfall(time: float, expected: Sequence[float], size: int) -> float:
    """The expected amount by which a block falls short of the `time` tokens that plain decoding makes in its time.

    `expected[k]` is the mean length of a block whose draft has k tokens; this one's has `size`. The shortfall is
    time - E[min(time, length)], and a block that is cut at n tokens is as long as one whose draft has n - 1.
    """
    whole = int(time)
    if whole > size:
        return time - expected[size]
    covered = expected[whole - 1] if whole else 0.0
    return time - covered - (time - whole) * (expected[whole] - covered)


def ceiling(cost: LatencyModel, start: float, guess: float) -> float:
    """What no chain can promise more than, however good its guesses: see `promise`."""
    ratios = cost.optimistic_unseen()[1 : _DEEPEST + 1]
    return max((size + 1) / (ratio + start + (size - 1) * guess) for size, ratio in enumerate(ratios, start=1))


def promise(
    drafter: str,
    chains: ChainAcceptance,
    cost: LatencyModel,
    start: float,
    guess: float,
    limit: int,
    *,
    unknown: float = UNKNOWN_ACCEPTANCE,
) -> tuple[float, float]:
    """The largest expected speed-up of a chain that has yet to be drafted, and its expected loss.

    `unknown` is what a guess is taken for before any was judged.
    """
    hoped = cost.optimistic_unseen()
    expected, reach = [1.0], 1.0
    best, size, spent = 0.0, 0, 0.0
    for depth, chance in enumerate(chains.by_depth(drafter, min(limit, _DEEPEST, cost.rows - 1), unknown)):
        reach *= chance
        expected.append(expected[-1] + reach)
        time = start + depth * guess
        gain = expected[-1] / (hoped[depth + 1] + time)
        if gain > best:
            best, size, spent = gain, depth + 1, time
    return best, shortfall(cost.ratio(size + 1) + spent, expected, size)


class Worth:
    """Whether one more guess pays: as long as what it adds, per time, is above what the draft has come to so far."""

    def __init__(
        self,
        drafter: str,
        acceptance: Acceptance,
        chains: ChainAcceptance,
        cost: LatencyModel,
        start: float,
        guess: float,
        *,
        hopeful: bool,
    ) -> None:
        """`hopeful`: take sizes that were never tried for as cheap as they may be."""
        self._drafter, self._acceptance = drafter, acceptance
        self._ratios = cost.optimistic_unseen() if hopeful else cost.ratios()
        self._sober = cost.ratios()
        self._spent, self._guess = start, guess
        self._reach = self._expected = 1.0
        self._best = 1.0
        self._size = 0
        self._chances = chains.by_depth(drafter, cost.rows - 1, UNKNOWN_ACCEPTANCE)

    def __call__(self, probability: float, bucket: Hashable) -> bool:
        acceptance, ratios = self._acceptance, self._ratios
        self._reach *= acceptance.estimate(self._drafter, bucket, probability)
        self._expected += self._reach
        self._size += 1
        here = ratios[self._size]
        self._best = max(self._best, self._expected / (here + self._spent))
        reach, added = self._reach, 0.0
        for ahead in range(1, min(_LOOK_AHEAD, len(ratios) - self._size - 1) + 1):
            reach *= self._chances[self._size + ahead - 1]
            added += reach
            there = (ratios if ahead <= _HOPE_AHEAD else self._sober)[self._size + ahead]
            if added > self._best * (there - here + ahead * self._guess):
                self._spent += self._guess
                return True
        return False
