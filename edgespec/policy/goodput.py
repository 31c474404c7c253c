"""How many draft tokens each of several answers gets in one forward pass: goodput, tokens of all per time.

The nodes of all trees compete for rows in one list, those of the largest reach first (SmartSpec, arXiv 2406.14066,
chooses one length for all sequences; here each gets its own). Times are in units of the plain pass, in which every
answer has one row. The rows of a draft take their share of what the pass takes longer, so an answer without a draft is
not charged for the others'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple


class Offer(NamedTuple):
    """What one answer could draft: the reach of its nodes, the largest first, and which sizes its limits allow.

    `allows(size, time)` has the time that the answer is charged with, see `charged_times`.
    """

    reach: Sequence[float]
    allows: Callable[[int, float], bool]


NO_OFFER = Offer((), lambda size, time: True)


def charged_times(drafted: Sequence[int], longer: float) -> list[float]:
    """The time of each answer in a pass that takes `longer` than the plain one, by its draft tokens.

    Their sum is the time of the pass for each answer.
    """
    total = sum(drafted)
    each = longer * len(drafted) / total if total else 0.0
    return [1.0 + each * size for size in drafted]


def rows_for(offers: Sequence[Offer], ratios: Sequence[float], minimum: float) -> list[int]:
    """The draft tokens of every answer in one pass of all; `ratios` is T(n)/T(1) for its rows, from 1 on.

    The most tokens per time, if that is above `minimum` times plainly; within the limits: an answer whose draft they do
    not allow gets the next smaller one that they do allow, and the others compete again.
    """
    count = len(offers)
    most = [len(offer.reach) for offer in offers]
    while True:
        nodes = [(chance, which) for which, offer in enumerate(offers) for chance in offer.reach[: most[which]]]
        nodes.sort(key=lambda node: -node[0])
        total = _best_total([chance for chance, _ in nodes], count, ratios, minimum)
        drafted = [0] * count
        for _, which in nodes[:total]:
            drafted[which] += 1
        if not total:
            return drafted
        longer = ratios[count + total - 1] / ratios[count - 1] - 1.0
        times = charged_times(drafted, longer)
        refused = [which for which, size in enumerate(drafted) if size and not offers[which].allows(size, times[which])]
        if not refused:
            return drafted
        row = longer * count / total
        for which in refused:
            sizes = range(drafted[which] - 1, 0, -1)
            most[which] = next((size for size in sizes if offers[which].allows(size, 1.0 + size * row)), 0)


def _best_total(reach: Sequence[float], count: int, ratios: Sequence[float], minimum: float) -> int:
    """How many of the nodes of all answers bring the most tokens per time; 0 if that is not above the minimum."""
    expected = accumulate(reach, initial=float(count))
    gains = [tokens / ratio for tokens, ratio in zip(expected, ratios[count - 1 :], strict=False)]
    best = max(range(len(gains)), key=gains.__getitem__)
    return best if gains[best] > minimum * gains[0] else 0
