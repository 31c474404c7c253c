"""What a draft can be expected to bring and to cost. Times are in units of T(1), speed-ups over plain decoding."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from edgespec.acceptance import Acceptance
from edgespec.core import ROOT, Draft
from edgespec.cost import CostCurve

_HOPE = 0.75
"""What an evaluation of a size that was never seen may cost, as a share of its estimate, at best."""

_SEEN_HOPE = 0.9
"""The same of a size that was seen, but not _TRIED times lately: the machine may have been busy then."""

_TRIED = 3

_HOPELESS = 0.02
"""Guesses that are reached less often than this are not worth weighing."""

UNKNOWN_ACCEPTANCE = 0.75
"""What a model's guess is taken for before any was judged."""

_DEEPEST = 16
"""A model's chain is planned no longer than this; it may become longer."""

_LOOK_AHEAD = 4
"""Guesses beyond the next one that may make up for what that one costs: T(n) has steps."""


class Prospect(NamedTuple):
    """What a draft of some size promises."""

    size: int
    expected: float
    """Tokens of the block."""
    time: float
    """What the block takes."""
    hoped: float
    """The speed-up if the evaluation is as cheap as it may be."""
    loss: float
    """The expected amount by which the block falls short of what plain decoding makes in its time."""

    @property
    def gain(self) -> float:
        """The expected speed-up."""
        return self.expected / self.time


def promise(
    drafter: str,
    acceptance: Acceptance,
    cost: CostCurve,
    start: float,
    guess: float,
    limit: int,
    *,
    unknown: float = UNKNOWN_ACCEPTANCE,
) -> tuple[float, float]:
    """The largest expected speed-up of a chain that has yet to be drafted, and its expected loss.

    `unknown` is what a guess is taken for before any was judged.
    """
    reach: list[float] = [1.0]
    expected, best, best_loss = 1.0, 0.0, 0.0
    for depth, chance in enumerate(acceptance.by_depth(drafter, min(limit, _DEEPEST), unknown)):
        reach.append(reach[-1] * chance)
        expected += reach[-1]
        ratio = cost.ratio(depth + 2)
        hoped = ratio if cost.observed(depth + 2) else max(1.0, ratio * _HOPE)
        gain = expected / (hoped + start + depth * guess)
        if gain > best:
            best, best_loss = gain, _shortfall(ratio + start + depth * guess, reach)
    return best, best_loss


def prospects(proposal: Draft, acceptance: Acceptance, cost: CostCurve, spent: float = 0.0) -> Iterator[Prospect]:
    """What every size of a draft promises, up to where a chain is all but sure to have ended.

    `spent` is the time that drafting took, part of what a block costs.
    """
    ratios = cost.ratios()
    chances: list[float] = []
    depths: list[int] = []
    reach: list[float] = [1.0]  # reach[m]: the chance that more than m tokens are emitted
    expected = 1.0
    for node, parent in enumerate(proposal.parents):
        chance = acceptance.estimate(proposal.drafter, proposal.evidence[node], proposal.probabilities[node])
        depth = 1
        if parent != ROOT:
            chance *= chances[parent]
            depth += depths[parent]
        chances.append(chance)
        depths.append(depth)
        if depth == len(reach):
            reach.append(0.0)
        reach[depth] += chance
        expected += chance
        ratio = ratios[node + 1]
        hope = _HOPE if not cost.observed(node + 2) else _SEEN_HOPE if cost.tried(node + 2) < _TRIED else 1.0
        hoped = expected / (max(1.0, ratio * hope) + spent)
        yield Prospect(node + 1, expected, ratio + spent, hoped, _shortfall(ratio + spent, reach))
        if chance < _HOPELESS and depth == node + 1:
            return


class Worth:
    """Whether one more guess pays: as long as what it adds, per time, is above what the draft has come to so far."""

    def __init__(
        self, drafter: str, acceptance: Acceptance, cost: CostCurve, start: float, guess: float, *, hopeful: bool
    ) -> None:
        """`hopeful`: take sizes that were never tried for as cheap as they may be."""
        self._drafter, self._acceptance = drafter, acceptance
        self._ratios = cost.ratios()
        if hopeful:
            self._ratios = [
                ratio if n == 1 or cost.observed(n) else max(1.0, ratio * _HOPE)
                for n, ratio in enumerate(self._ratios, 1)
            ]
        self._spent, self._guess = start, guess
        self._reach = self._expected = 1.0
        self._best = 1.0
        self._size = 0
        self._chances = acceptance.by_depth(drafter, len(cost.ratios()) - 1, UNKNOWN_ACCEPTANCE)

    def __call__(self, probability: float, evidence: Hashable) -> bool:
        acceptance, ratios = self._acceptance, self._ratios
        self._reach *= acceptance.estimate(self._drafter, evidence, probability)
        self._expected += self._reach
        self._size += 1
        here = ratios[self._size]
        self._best = max(self._best, self._expected / (here + self._spent))
        reach, added = self._reach, 0.0
        for ahead in range(1, min(_LOOK_AHEAD, len(ratios) - self._size - 1) + 1):
            reach *= self._chances[self._size + ahead - 1]
            added += reach
            if added > self._best * (ratios[self._size + ahead] - here + ahead * self._guess):
                self._spent += self._guess
                return True
        return False


def _shortfall(ratio: float, reach: Sequence[float]) -> float:
    """The expected amount by which a block falls short of the `ratio` tokens that plain decoding makes in its time.

    E[max(0, ratio - length)] = ratio - E[min(ratio, length)], and E[min(ratio, length)] adds up P(length > m).
    """
    whole = int(ratio)
    covered = sum(reach[:whole])
    if whole < len(reach):
        covered += (ratio - whole) * reach[whole]
    return ratio - covered
