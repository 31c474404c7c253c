"""T(n): the time of one evaluation of n tokens, which decides what a draft may cost.

The curve differs from machine to machine, is not smooth and not even monotonic. It is kept as a ratio to T(1), starts
from a prior, and is corrected by the evaluations of the run itself; the target never evaluates anything only to be
measured. A prompt's evaluation gives the first correction, before the first token is out.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from edgespec.estimate import CLIP, TRUSTED_AFTER, Estimate

_PRIOR_SLOPE = 0.45
"""Cost of one more token in units of T(1), before anything is known: between a memory-bound F16 model's 0.15 and a
compute-bound Q4_K's 0.5 on two AVX2 cores, nearer the side on which drafting too much hurts."""

_SURPRISE = math.log(1.25)
_SURPRISES = 4
"""After so many evaluations in a row that were off by so much, all slower or all faster than thought, the machine has
changed (a phone throttles), and T(1) is due: where every evaluation drafts, nothing else tells that from a change of
T(n)/T(1), and drafting would be given up for nothing."""

_STORED_COUNT = 6
"""What a curve from an earlier run is worth, in evaluations."""

_RECENT = 256
"""Evaluations after which what was tried counts half as much."""

_UNSEEN_HOPE = 0.75
"""What an evaluation of a size that was never seen may cost, as a share of its estimate, at best."""

_SEEN_HOPE = 0.9
"""The same of a size that was seen, but not _TRIED times lately: the machine may have been busy then."""

_TRIED = 3

_VISIBLE = 0.003
"""By how much the logarithm of an estimate moves before the curve is drawn anew, which takes longer than all else."""

_SHALLOW = 1024
"""Tokens of context up to which one curve will do; from there on, each doubling has its own."""

PROMPT_CHUNK = 128
"""Evaluations of more tokens than this are taken as several of this size: T is a straight line out there."""


def is_typical(before: int, total: int) -> bool:
    """Whether reading a text from `before` on tells what an evaluation of so many takes: a few may be split in two."""
    return total - before > PROMPT_CHUNK or before // PROMPT_CHUNK == (total - 1) // PROMPT_CHUNK


class CostCurve:
    """T(n) in seconds for n from 1 to `rows`, as known so far; for long contexts, see `at`."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._evaluations = 0
        self._single: Estimate | None = None
        self._ratios: dict[int, Estimate] = {}
        self._waiting: dict[int, float] = {}  # seconds seen before T(1) was
        self._surprises = 0  # in a row; below 0 those of a machine faster than thought
        self._due = False
        self._deeper: dict[int, CostCurve] = {}  # by doublings of _SHALLOW
        self._end = max(rows, PROMPT_CHUNK) + 1  # beyond all sizes
        self._logs = [math.log(n) for n in range(1, self._end)]
        self._log_priors = [math.log(1.0 + _PRIOR_SLOPE * (n - 1)) for n in range(1, self._end)]
        self._draw()

    @property
    def known(self) -> bool:
        """Whether T(1) has been seen: before that there are no seconds, only the prior's ratios."""
        return self._single is not None

    @property
    def due(self) -> bool:
        """Whether T(1) has to be seen again, since the machine is not what it was."""
        return self._due

    @property
    def single(self) -> float:
        """T(1) in seconds; 1.0 while it is not known."""
        return math.exp(self._single.value) if self._single else 1.0

    def at(self, depth: int) -> CostCurve:
        """The curve after `depth` tokens of context: this one, or one of its own for a long context.

        Attention takes longer there, and for several tokens more so. A curve that knows nothing yet begins as the
        nearest one that does, believed less.
        """
        doublings = (depth // _SHALLOW).bit_length()
        if doublings and doublings not in self._deeper:
            self._deeper[doublings] = CostCurve(self.rows)
        curves = {0: self, **self._deeper}
        curve = curves[doublings]
        if not curve.known and (known := [place for place in curves if curves[place].known]):
            curve._begin(curves[min(known, key=lambda place: abs(place - doublings))]._own())
        return curve

    def ratio(self, n: int) -> float:
        """T(n)/T(1), for n from 1 to `rows`."""
        return self._table[n - 1]

    def ratios(self) -> list[float]:
        """T(n)/T(1) for n = 1 .. rows."""
        return self._table

    def hoped(self) -> list[float]:
        """The same as cheap as it may be, where it was not tried lately."""
        return self._hoped

    def hoped_unseen(self) -> list[float]:
        """The same as cheap as it may be, where it was never seen."""
        return self._hoped_unseen

    def observe(self, n: int, seconds: float) -> None:
        """Learn that an evaluation of n tokens took `seconds`."""
        self._evaluations += 1
        if self._evaluations % _RECENT == 0:
            for estimate in self._ratios.values():
                estimate.recent //= 2
            self._draw()
        if n > PROMPT_CHUNK:
            n, seconds = PROMPT_CHUNK, seconds * PROMPT_CHUNK / n
        self._compare(n, seconds)
        if n == 1:
            self._observe_single(seconds)
        elif self._single is None or self._due:
            self._waiting[n] = seconds
        else:
            self._observe_ratio(n, math.log(seconds) - self._single.value)

    def observe_prompt(self, n: int, seconds: float) -> None:
        """The same of a prompt's evaluation, where none was seen of its size: it makes logits for one row only."""
        if n > self.rows or n not in self._ratios:
            self.observe(n, seconds)

    def measure(self, times: Mapping[int, float]) -> None:
        """Take T(n) from what was measured on purpose, in seconds by n, whatever was known of those sizes before.

        What was known of longer contexts is forgotten: it may be of a busy moment, and begins anew from here.
        """
        self._deeper.clear()
        self._single = Estimate(math.log(times[1]), _STORED_COUNT)
        self._due, self._surprises = False, 0
        for n, seconds in times.items():
            if 1 < n <= PROMPT_CHUNK:
                self._ratios[n] = Estimate(math.log(seconds / times[1]), _STORED_COUNT, recent=_TRIED)
        self._draw()

    def _compare(self, n: int, seconds: float) -> None:
        """Notice when the machine has become another one."""
        ratio = self._ratios.get(n)
        if self._single is None or (n > 1 and (ratio is None or ratio.count < TRUSTED_AFTER)):
            return
        off = math.log(seconds) - self._single.value - (ratio.value if ratio else 0.0)
        if abs(off) < _SURPRISE:
            self._surprises = 0
            return
        step = 1 if off > 0.0 else -1
        self._surprises = self._surprises + step if self._surprises * step > 0 else step
        self._due = self._due or abs(self._surprises) >= _SURPRISES

    def _observe_single(self, seconds: float) -> None:
        if self._single is not None and not self._due:
            self._single.update(math.log(seconds))
            return
        self._single = Estimate(math.log(seconds))
        self._due, self._surprises = False, 0
        for n, waited in self._waiting.items():
            self._observe_ratio(n, math.log(waited) - self._single.value)
        self._waiting.clear()

    def _observe_ratio(self, n: int, log_ratio: float) -> None:
        estimate = self._ratios.get(n)
        if estimate is None:
            log_ratio = min(log_ratio, self._thought(n) + CLIP)
            self._ratios[n] = Estimate(log_ratio)
            insort(self._known, n)
        else:
            estimate.update(log_ratio)
            if estimate.recent != _TRIED and abs(estimate.value - estimate.drawn) < _VISIBLE:
                return
        self._bend(n)

    def _draw(self) -> None:
        """Draw the whole curve: the prior, bent to what was observed."""
        self._known = sorted({1, *self._ratios})
        self._table, self._hoped, self._hoped_unseen = ([1.0] * self.rows for _ in range(3))
        for left, right in pairwise([*self._known, self._end]):
            self._stretch(left, right)
        for estimate in self._ratios.values():
            estimate.drawn = estimate.value

    def _bend(self, n: int) -> None:
        """Draw it anew where the estimate of n counts: between the known sizes to either side."""
        self._ratios[n].drawn = self._ratios[n].value
        # Whoever holds the last tables keeps them.
        self._table, self._hoped, self._hoped_unseen = self._table[:], self._hoped[:], self._hoped_unseen[:]
        place = bisect_left(self._known, n)
        for left, right in pairwise([*self._known[place - 1 : place + 2], self._end][:3]):
            self._stretch(left, right)

    def _stretch(self, left: int, right: int) -> None:
        """The curve from one known size to before the next: corrections of the prior are interpolated over log n."""
        start, slope = self._correction(left), 0.0
        if right in self._ratios:
            slope = (self._correction(right) - start) / (self._logs[right - 1] - self._logs[left - 1])
        start -= slope * self._logs[left - 1]
        sizes = slice(left - 1, min(right - 1, self.rows))
        ratios = self._table[sizes] = [
            math.exp(prior + start + slope * log)
            for prior, log in zip(self._log_priors[sizes], self._logs[sizes], strict=True)
        ]
        self._hoped[sizes] = self._hoped_unseen[sizes] = [max(1.0, ratio * _UNSEEN_HOPE) for ratio in ratios]
        if left <= self.rows:
            tried = left == 1 or self._ratios[left].recent >= _TRIED
            self._hoped[left - 1] = max(1.0, ratios[0] * (1.0 if tried else _SEEN_HOPE))
            self._hoped_unseen[left - 1] = ratios[0]

    def _thought(self, n: int) -> float:
        """What log T(n)/T(1) is taken for: by the curve, and beyond it by the largest size that is known."""
        if n <= self.rows:
            return math.log(self._table[n - 1])
        return self._log_priors[n - 1] + self._correction(self._known[-1])

    def _correction(self, n: int) -> float:
        """How far log T(n)/T(1) is from the prior, for a known n."""
        return self._ratios[n].value - self._log_priors[n - 1] if n > 1 else 0.0

    def as_json(self) -> dict[str, Any]:
        """What a later run can start from."""
        deeper = {str(doublings): curve._own() for doublings, curve in self._deeper.items() if curve.known}
        return {**self._own(), "deeper": deeper}

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Start from what an earlier run left, believed less than it was then. Raises ValueError on nonsense."""
        self._begin(stored)
        for doublings, own in stored.get("deeper", {}).items():
            if int(doublings) < 1:
                raise ValueError(f"a stored cost curve for contexts of {doublings} doublings")
            curve = self._deeper[int(doublings)] = CostCurve(self.rows)
            curve._begin(own)

    def _own(self) -> dict[str, Any]:
        return {
            "single_seconds": self.single if self.known else None,
            "ratios": {str(n): [math.exp(e.value), e.count] for n, e in sorted(self._ratios.items())},
        }

    def _begin(self, stored: Mapping[str, Any]) -> None:
        single = stored["single_seconds"]
        ratios = {int(n): (float(ratio), int(count)) for n, (ratio, count) in stored["ratios"].items()}
        if (single is not None and not 0 < float(single) < math.inf) or not all(
            1 < n <= PROMPT_CHUNK and 0 < ratio < math.inf and count > 0 for n, (ratio, count) in ratios.items()
        ):
            raise ValueError("a stored cost curve with values out of range")
        if single is not None:
            self._single = Estimate(math.log(float(single)), 1)
        self._ratios = {
            n: Estimate(math.log(ratio), min(count, _STORED_COUNT), recent=0) for n, (ratio, count) in ratios.items()
        }
        self._draw()
