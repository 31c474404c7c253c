"""A curve over 1 .. n tokens that is known at some of them: a prior, bent to what was seen there."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from itertools import pairwise

from edgespec.latency.estimate import Estimate

_PRIOR_SLOPE = 0.45
"""Cost of one more token in units of T(1), before anything is known: between a memory-bound F16 model's 0.15 and a
compute-bound Q4_K's 0.5 on two AVX2 cores, nearer the side on which drafting too much hurts."""

_UNSEEN_HOPE = 0.75
"""What an evaluation of a size that was never seen may cost, as a share of its estimate, at best."""

_SEEN_HOPE = 0.9
"""The same of a size that was seen, but not TRIED times lately: the machine may have been busy then."""

TRIED = 3

_VISIBLE = 0.003
"""By how much the logarithm of an estimate moves before the curve is drawn anew, which takes longer than all else."""


class Curve:
    """T(n)/T(1) for n = 1 .. `rows`, drawn from what was `seen` of some n up to `most`, logarithms of ratios.

    `refit` it where entries of `seen` went or several came, `refit_at` a size where one came or changed.
    """

    def __init__(self, rows: int, most: int, seen: Mapping[int, Estimate]) -> None:
        self._rows = rows
        self._seen = seen
        self._end = max(rows, most) + 1  # beyond all sizes
        self._logs = [math.log(n) for n in range(1, self._end)]
        self._log_priors = [math.log(1.0 + _PRIOR_SLOPE * (n - 1)) for n in range(1, self._end)]
        self.ratios: list[float]
        self.optimistic: list[float]
        """As cheap as it may be, where it was not tried lately."""
        self.optimistic_unseen: list[float]
        """As cheap as it may be, where it was never seen."""
        self.refit()

    def refit(self) -> None:
        """Draw the whole curve: the prior, bent to what was observed."""
        self._known = sorted({1, *self._seen})
        self.ratios, self.optimistic, self.optimistic_unseen = ([1.0] * self._rows for _ in range(3))
        for left, right in pairwise([*self._known, self._end]):
            self._fill(left, right)
        for estimate in self._seen.values():
            estimate.shown = estimate.value

    def refit_at(self, n: int) -> None:
        """Draw it anew where the estimate of n counts: between the known sizes to either side."""
        estimate = self._seen[n]
        if estimate.recent != TRIED and abs(estimate.value - estimate.shown) < _VISIBLE:
            return
        estimate.shown = estimate.value
        # Whoever holds the last tables keeps them.
        self.ratios, self.optimistic, self.optimistic_unseen = (
            self.ratios[:],
            self.optimistic[:],
            self.optimistic_unseen[:],
        )
        place = bisect_left(self._known, n)
        if self._known[place : place + 1] != [n]:
            self._known.insert(place, n)
        for left, right in pairwise([*self._known[place - 1 : place + 2], self._end][:3]):
            self._fill(left, right)

    def _fill(self, left: int, right: int) -> None:
        """The curve from one known size to before the next: corrections of the prior are interpolated over log n."""
        start, slope = self._correction(left), 0.0
        if right in self._seen:
            slope = (self._correction(right) - start) / (self._logs[right - 1] - self._logs[left - 1])
        start -= slope * self._logs[left - 1]
        sizes = slice(left - 1, min(right - 1, self._rows))
        ratios = self.ratios[sizes] = [
            math.exp(prior + start + slope * log)
            for prior, log in zip(self._log_priors[sizes], self._logs[sizes], strict=True)
        ]
        self.optimistic[sizes] = self.optimistic_unseen[sizes] = [max(1.0, ratio * _UNSEEN_HOPE) for ratio in ratios]
        if left <= self._rows:
            tried = left == 1 or self._seen[left].recent >= TRIED
            self.optimistic[left - 1] = max(1.0, ratios[0] * (1.0 if tried else _SEEN_HOPE))
            self.optimistic_unseen[left - 1] = ratios[0]

    def predicted(self, n: int) -> float:
        """What log T(n)/T(1) is taken for: by the curve, and beyond it by the largest size that is known."""
        if n <= self._rows:
            return math.log(self.ratios[n - 1])
        return self._log_priors[n - 1] + self._correction(self._known[-1])

    def _correction(self, n: int) -> float:
        """How far log T(n)/T(1) is from the prior, for a known n."""
        return self._seen[n].value - self._log_priors[n - 1] if n > 1 else 0.0
