"""What each drafter has gained over plain decoding, and may lose again: times in units of T(1).

The estimates behind a draft may be wrong, but what they can lose is bounded by this.
"""

from __future__ import annotations

from collections.abc import Iterable

_STAKE = 0.3
"""What each drafter may lose before it has gained anything: one draft that is all wrong, where T(n) is steep."""

_BET = 3.0
"""So much more than its drafter may lose by expectation may a draft lose if all of it is wrong. Where T(n) is steep, a
long draft that is expected to lose next to nothing takes 8 T(1); where it is wrong a short answer comes so much later.
It waits until shorter ones have gained what it may lose."""

_PRICED_STAKE = 3.0
"""The same for a drafter whose guesses cost time: what it is worth cannot be learned without asking it, and two wrong
drafts at the beginning say little."""

_INTEREST = 0.01
"""What every evaluation without its drafts adds to that. So short answers are not slowed down by trying, and in a long
text a drafter is tried again after it was given up."""

_MOST = 15.0
"""Gains beyond this are not kept: a text that stops repeating itself may take back no more of them."""


class Accounts:
    """One for each drafter, by name; `priced` are those whose guesses cost time."""

    def __init__(self, free: Iterable[str], priced: Iterable[str]) -> None:
        self._allowed = dict.fromkeys(free, _STAKE) | dict.fromkeys(priced, _PRICED_STAKE)
        self._gained = dict.fromkeys(self._allowed, 0.0)

    def allowed(self, name: str) -> float:
        """What it may lose."""
        return self._allowed[name]

    def covers(self, name: str, expected: float, worst: float) -> bool:
        """Whether a draft may be made that is expected to lose so much, and loses `worst` if all of it is wrong."""
        return expected <= self._allowed[name] and worst <= self._allowed[name] + _BET

    def has_gained(self, name: str) -> bool:
        """Whether its drafts have brought more than they cost, all in all."""
        return self._gained[name] > 0.0

    def settle(self, name: str, *, spent: float, drafted: float | None) -> float:
        """A block is over: its guesses took `spent`, its draft gained `drafted` (None: it had none). What that adds."""
        change = -spent
        if drafted is None:
            change += _INTEREST
        else:
            change += drafted
            self._gained[name] += change
        self._allowed[name] = min(self._allowed[name] + change, _MOST)
        return change
