"""Drafters whose draft tokens cost time: what a chain that has yet to be drafted promises, and when to stop drafting.

Times are in units of T(1), speed-ups over plain decoding.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from edgespec.policy.acceptance import Acceptance
from edgespec.policy.tree import HOPELESS


def expected_speed_up(
    chances: Sequence[float], ratios: Sequence[float], start: float, token: float
) -> tuple[float, int]:
    """The largest of all sizes of a chain up to the first token that is hardly ever reached, and that size, at least 1.

    `chances` are the conditional probabilities by position, `ratios` is T(n)/T(1), `start` the time up to the first
    draft token and `token` that of each one more.
    """
    best, size, expected, reach, spent = 0.0, 1, 1.0, 1.0, start
    for position, (chance, ratio) in enumerate(zip(chances, ratios[1:], strict=False), start=1):
        reach *= chance
        expected += reach
        gain = expected / (ratio + spent)
        if gain > best:
            best, size = gain, position
        if reach < HOPELESS:
            break
        spent += token
    return best, size


def may_exceed(rival: float, ratios: Sequence[float], start: float, token: float) -> bool:
    """Whether a chain could exceed that speed-up if all its tokens were right."""
    time = start
    for tokens, ratio in enumerate(ratios[1:], start=2):
        if tokens > rival * (ratio + time):
            return True
        time += token
    return False


class StoppingRule:
    """Whether one more draft token pays: while what the next few add, per time, is above the best rate so far."""

    def __init__(
        self, drafter: str, acceptance: Acceptance, ratios: Sequence[float], chances: Sequence[float],
        start: float, token: float,
    ) -> None:  # fmt: skip
        """`chances` are the conditional probabilities by position of the chain, before it is drafted."""
        self._drafter, self._acceptance = drafter, acceptance
        self._ratios, self._chances = ratios, chances
        self._spent, self._token = start, token
        self._reach = self._expected = self._best = 1.0
        self._size = 0

    def __call__(self, probability: float, bucket: Hashable) -> bool:
        """Whether to draft on after a token of that probability and feature bucket."""
        self._reach *= self._acceptance.estimate(self._drafter, bucket, probability)
        self._expected += self._reach
        self._size += 1
        size, ratios = self._size, self._ratios
        here = ratios[size] + self._spent
        self._best = best = max(self._best, self._expected / here)
        reach, added, time = self._reach, 0.0, here
        for chance, ratio in zip(self._chances[size:], ratios[size + 1 :], strict=False):
            reach *= chance
            added += reach
            time += self._token
            if added > best * (ratio - ratios[size] + time - here):
                self._spent += self._token
                return True
            if reach < HOPELESS:
                break
        return False
