"""What a draft can be expected to bring and to cost. Times are in units of T(1), speed-ups over plain decoding."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from edgespec.acceptance import Acceptance
from edgespec.core import ROOT, Draft
from edgespec.cost import CostCurve

_PROBE_HOPE = 0.75
"""A size that is tried so may cost this share of its estimate, at best."""

_UNKNOWN_ACCEPTANCE = 0.75
"""What a model's guess is taken for before any was judged."""

_DEEPEST = 16
"""A model's chain is planned no longer than this; it may become longer."""

_LOOK_AHEAD = 4
"""Guesses beyond the next one that may make up for what that one costs: T(n) has steps."""


def promise(
    drafter: str, acceptance: Acceptance, cost: CostCurve, start: float, guess: float, limit: int
) -> tuple[float, float]:
    """The largest expected speed-up of a chain that has yet to be drafted, and its expected loss."""
    reach: list[float] = [1.0]
    expected, best, best_loss = 1.0, 0.0, 0.0
    for depth in range(min(limit, _DEEPEST)):
        reach.append(reach[-1] * acceptance.at_depth(drafter, depth, _UNKNOWN_ACCEPTANCE))
        expected += reach[-1]
        ratio = cost.ratio(depth + 2)
        hoped = ratio if cost.observed(depth + 2) else max(1.0, ratio * _PROBE_HOPE)
        gain = expected / (hoped + start + depth * guess)
        if gain > best:
            best, best_loss = gain, _shortfall(ratio + start + depth * guess, reach)
    return best, best_loss


def prospects(
    proposal: Draft, acceptance: Acceptance, cost: CostCurve, spent: float = 0.0
) -> Iterator[tuple[int, float, float, float]]:
    """For every size of a draft: the expected speed-up, the one to hope for, and the expected loss.

    `spent` is the time that drafting took, which is part of what a block costs.
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
        ratio = ratios[node + 1] + spent
        yield node + 1, expected / ratio, expected / max(1.0, ratio * _PROBE_HOPE), _shortfall(ratio, reach)


class Worth:
    """Whether one more guess pays: as long as what it adds, per time, is above what the draft has come to so far."""

    def __init__(self, drafter: str, acceptance: Acceptance, cost: CostCurve, start: float, guess: float) -> None:
        self._drafter, self._acceptance, self._cost = drafter, acceptance, cost
        self._spent, self._guess = start, guess
        self._reach = self._expected = 1.0
        self._best = 1.0
        self._size = 0

    def __call__(self, probability: float, evidence: Hashable) -> bool:
        acceptance, ratios = self._acceptance, self._cost.ratios()
        self._reach *= acceptance.estimate(self._drafter, evidence, probability)
        self._expected += self._reach
        self._size += 1
        here = ratios[self._size]
        self._best = max(self._best, self._expected / (here + self._spent))
        reach, added = self._reach, 0.0
        for ahead in range(1, min(_LOOK_AHEAD, len(ratios) - self._size - 1) + 1):
            reach *= acceptance.at_depth(self._drafter, self._size + ahead - 1, _UNKNOWN_ACCEPTANCE)
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
