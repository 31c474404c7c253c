"""T(n): the time of one evaluation of n tokens, which decides what a draft may cost.

The curve differs from machine to machine, is not smooth and not even monotonic. It is kept as a ratio to T(1), starts
from a prior, and is corrected by the evaluations of the run itself; the target never evaluates anything only to be
measured. A prompt's evaluation gives the first correction, before the first token is out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgespec.latency.curve import TRIED, Curve
from edgespec.latency.estimate import CLIP, TRUSTED_AFTER, Estimate

_SURPRISE = math.log(1.25)
_SURPRISES = 4
"""After so many evaluations in a row that were off by so much, all slower or all faster than thought, the machine has
changed (a phone throttles), and T(1) is due: where every evaluation drafts, nothing else tells that from a change of
T(n)/T(1), and drafting would be given up for nothing."""

_STORED_COUNT = 6
"""What a curve from an earlier run is worth, in evaluations."""

_RECENT = 256
"""Evaluations after which what was tried counts half as much."""

_SHALLOW = 1024
"""Tokens of context up to which one curve will do; from there on, each doubling has its own."""

PROMPT_CHUNK = 128
"""Evaluations of more tokens than this are taken as several of this size: T is a straight line out there."""


def is_typical(before: int, total: int) -> bool:
    """Whether reading a text from `before` on tells what an evaluation of so many takes: a few may be split in two."""
    return total - before > PROMPT_CHUNK or before // PROMPT_CHUNK == (total - 1) // PROMPT_CHUNK


class LatencyModel:
    """T(n) in seconds for n from 1 to `rows`, as known so far; for long contexts, see `for_context`."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._evaluations = 0
        self._single: Estimate | None = None
        self._ratios: dict[int, Estimate] = {}
        self._waiting: dict[int, float] = {}  # seconds seen before T(1) was
        self._surprises = 0  # in a row; below 0 those of a machine faster than thought
        self._due = False
        self._deeper: dict[int, LatencyModel] = {}  # by doublings of _SHALLOW
        self._doubts = 0
        self._curve = Curve(rows, PROMPT_CHUNK, self._ratios)

    @property
    def known(self) -> bool:
        """Whether T(1) has been seen: before that there are no seconds, only the prior's ratios."""
        return self._single is not None

    @property
    def needs_remeasure(self) -> bool:
        """Whether T(1) has to be seen again: the machine is not what it was, or was busy when T(1) was seen."""
        return self._due

    @property
    def t1(self) -> float:
        """T(1) in seconds; 1.0 while it is not known."""
        return math.exp(self._single.value) if self._single else 1.0

    def for_context(self, depth: int) -> LatencyModel:
        """The curve after `depth` tokens of context: this one, or one of its own for a long context.

        Attention takes longer there, and for several tokens more so. A curve that knows nothing yet begins as the
        nearest one that does, believed less.
        """
        doublings = (depth // _SHALLOW).bit_length()
        if doublings and doublings not in self._deeper:
            self._deeper[doublings] = LatencyModel(self.rows)
        curves = {0: self, **self._deeper}
        curve = curves[doublings]
        if not curve.known and (known := [place for place in curves if curves[place].known]):
            curve._begin(curves[min(known, key=lambda place: abs(place - doublings))]._own())
        return curve

    def ratio(self, n: int) -> float:
        """T(n)/T(1), for n from 1 to `rows`."""
        return self._curve.ratios[n - 1]

    def charged(self, n: int, seconds: float) -> float:
        """What an evaluation of n tokens took, in units of T(1).

        That is T(n) as far as known, since a single time is noise; but a time that is more than twice as long, or less
        than half, says that T(n) is known badly.
        """
        own = seconds / self.t1
        return min(max(self.ratio(n), own / 2), own * 2)

    def ratios(self) -> list[float]:
        """T(n)/T(1) for n = 1 .. rows."""
        return self._curve.ratios

    def optimistic(self) -> list[float]:
        """The same as cheap as it may be, where it was not tried lately."""
        return self._curve.optimistic

    def optimistic_unseen(self) -> list[float]:
        """The same as cheap as it may be, where it was never seen."""
        return self._curve.optimistic_unseen

    def observe(self, n: int, seconds: float) -> None:
        """Learn that an evaluation of n tokens took `seconds`."""
        self._evaluations += 1
        if self._evaluations % _RECENT == 0:
            for estimate in self._ratios.values():
                estimate.recent //= 2
            self._curve.refit()
        if n > PROMPT_CHUNK:
            n, seconds = PROMPT_CHUNK, seconds * PROMPT_CHUNK / n
        self._compare(n, seconds)
        if n == 1:
            self._observe_single(seconds)
        else:
            self._observe_several(n, seconds)

    def observe_prompt(self, n: int, seconds: float) -> None:
        """The same of a prompt's evaluation, where none was seen of its size: it makes logits for one row only."""
        if n > self.rows or n not in self._ratios:
            self.observe(n, seconds)

    def measure(self, times: Mapping[int, float]) -> None:
        """Take T(n) from what was measured on purpose, in seconds by n, whatever was known of sizes up to the largest.

        What was known of longer contexts is forgotten: it may be of a busy moment, and begins anew from here.
        """
        self._deeper.clear()
        self._waiting.clear()
        for n in [n for n in self._ratios if n <= max(times)]:
            del self._ratios[n]
        self._single = Estimate(math.log(times[1]), _STORED_COUNT)
        self._due, self._surprises = False, 0
        for n, seconds in times.items():
            if 1 < n <= PROMPT_CHUNK:
                self._ratios[n] = Estimate(math.log(seconds / times[1]), _STORED_COUNT, recent=TRIED)
        self._curve.refit()

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
        waiting, self._waiting = self._waiting, {}
        for n, waited in waiting.items():
            self._observe_several(n, waited)

    def _observe_several(self, n: int, seconds: float) -> None:
        """Learn T(n)/T(1), once T(1) is known, unless several tokens seem to take less time than one.

        Then T(1), if it was hardly ever seen, was seen in a busy moment: it is due again, and all that was taken
        relative to it waits for that.
        """
        if self._single is None or self._due:
            self._waiting[n] = seconds
            return
        log_ratio = math.log(seconds) - self._single.value
        if log_ratio > -_SURPRISE or self._single.count + self._doubts >= TRUSTED_AFTER:
            self._observe_ratio(n, log_ratio)
            return
        self._doubts += 1  # not for ever: there may be a machine where it is true
        self._due = True
        for size in [size for size, estimate in self._ratios.items() if estimate.count < TRUSTED_AFTER]:
            self._waiting[size] = math.exp(self._single.value + self._ratios.pop(size).value)
        self._waiting[n] = seconds
        self._curve.refit()

    def _observe_ratio(self, n: int, log_ratio: float) -> None:
        estimate = self._ratios.get(n)
        if estimate is None:
            self._ratios[n] = Estimate(min(log_ratio, self._curve.predicted(n) + CLIP))
        else:
            estimate.update(log_ratio)
        self._curve.refit_at(n)

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
            curve = self._deeper[int(doublings)] = LatencyModel(self.rows)
            curve._begin(own)

    def _own(self) -> dict[str, Any]:
        return {
            "single_seconds": self.t1 if self.known else None,
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
        self._ratios.clear()
        for n, (ratio, count) in ratios.items():
            self._ratios[n] = Estimate(math.log(ratio), min(count, _STORED_COUNT), recent=0)
        self._curve.refit()
