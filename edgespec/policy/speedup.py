"""What drafts of every size promise, and which size to take. Times are in units of T(1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Limits:
    """What a draft may lose: `budgets` by expectation, for each drafter, `worst` where all of it is wrong.

    With a probability of at most `risk` it may come more than `noticed` later than plain decoding.
    """

    budgets: Mapping[str, float]
    worst: float
    noticed: float
    risk: float


def shares(authors: Sequence[str], reach: Sequence[float]) -> dict[str, float]:
    """The part of each drafter in what a draft brings; they add up to 1."""
    parts: dict[str, float] = {}
    for author, chance in zip(authors, reach, strict=True):
        parts[author] = parts.get(author, 0.0) + chance
    total = sum(parts.values())
    return {author: part / total if total else 1.0 / len(parts) for author, part in parts.items()}


class Sizes:
    """The expected speed-up of every size of a draft, from none on.

    `reach` is that of its nodes in the order in which they are taken; `depths` those of a tree's nodes, none for a
    chain. `authors` are the drafters that they are credited to.
    """

    __slots__ = ("_authors", "_depths", "expected", "gains", "reach", "times")

    def __init__(
        self,
        reach: Sequence[float],
        ratios: Sequence[float],
        spent: float = 0.0,
        depths: Sequence[int] | None = None,
        authors: str | Sequence[str] = "",
        trunk: Sequence[int] | None = None,
    ) -> None:
        """`ratios` is T(n)/T(1) from n = 1 on, `spent` the time of drafting; one author of all nodes is a string.

        `trunk` are the nodes of a tree's first path. Others that are accepted are evaluated again, so each costs one
        more row as often as it is reached.
        """
        self.reach = reach
        self._depths = depths
        self._authors = authors
        self.expected = list(accumulate(reach, initial=1.0))
        """Mean tokens of a forward pass with so many nodes."""
        self.times = [ratio + spent for ratio in ratios[: len(self.expected)]] if spent else ratios
        if trunk is not None:
            on_trunk = set(trunk)
            sides = accumulate((0.0 if node in on_trunk else chance for node, chance in enumerate(reach)), initial=0.0)
            self.times = [
                time + again * (ratio - 1.0) / max(size, 1)
                for size, (time, again, ratio) in enumerate(zip(self.times, sides, ratios, strict=False))
            ]
        self.gains = [tokens / time for tokens, time in zip(self.expected, self.times, strict=False)]
        """Expected speed-ups."""

    def _tail(self, size: int) -> Sequence[float]:
        """The chance that at least 1, 2, ... of so many nodes are accepted: paths exclude each other."""
        if self._depths is None:
            return self.reach[:size]
        tail = [0.0] * max(self._depths[:size], default=0)
        for depth, reach in zip(self._depths[:size], self.reach, strict=False):
            tail[depth - 1] += reach
        return tail

    def shortfall(self, size: int, time: float | None = None) -> float:
        """The expected amount by which that size falls short of plain decoding in the same time.

        That is time - E[min(time, tokens)], with a token more than are accepted.
        """
        time = self.times[size] if time is None else time
        whole = int(time)
        tail = self._tail(size)
        part = tail[whole - 1] * (time - whole) if 0 < whole <= len(tail) else 0.0
        return time - min(time, 1.0) - sum(tail[: max(whole - 1, 0)]) - part

    def risk(self, size: int, noticed: float, time: float | None = None) -> float:
        """The chance that a pass of that size comes more than `noticed` later than plain decoding."""
        needed = (self.times[size] if time is None else time) - noticed - 1e-9
        if needed <= 1.0:
            return 0.0
        accepted = math.ceil(needed) - 1  # so many must be
        tail = self._tail(size)
        return 1.0 - tail[accepted - 1] if accepted <= len(tail) else 1.0

    def allows(self, size: int, limits: Limits, time: float | None = None) -> bool:
        """Whether that size, in its own time or another one, keeps the limits.

        Each drafter answers for its share of the shortfall.
        """
        shortfall = self.shortfall(size, time)
        if isinstance(self._authors, str):
            affordable = shortfall <= limits.budgets[self._authors]
        else:
            parts = shares(self._authors[:size], self.reach[:size])
            affordable = all(shortfall * part <= limits.budgets[name] for name, part in parts.items())
        return affordable and self.keeps_promise(size, limits, time)

    def keeps_promise(self, size: int, limits: Limits, time: float | None = None) -> bool:
        """Whether that size keeps those limits that are the promise to the answer, `worst` and `risk`."""
        late = (self.times[size] if time is None else time) - 1.0
        return late <= limits.worst and self.risk(size, limits.noticed, time) <= limits.risk

    def best(self, limits: Limits, minimum: float) -> int:
        """The size of the largest expected speed-up above `minimum` that keeps the limits; 0 is to draft nothing.

        T(n) has steps and teeth: all sizes are looked at, those of the largest speed-up first.
        """
        gains = self.gains
        first = max(range(len(gains)), key=gains.__getitem__)
        if gains[first] <= minimum or first == 0:
            return 0
        if self.allows(first, limits):
            return first
        for size in sorted(range(1, len(gains)), key=gains.__getitem__, reverse=True)[1:]:
            if gains[size] <= minimum:
                return 0
            if self.allows(size, limits):
                return size
        return 0
