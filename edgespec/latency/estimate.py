"""One number that is measured again and again, on a machine that is busy now and then."""

from __future__ import annotations

import math
from dataclasses import dataclass

_LEAST_WEIGHT = 0.1
"""An estimate forgets: a new evaluation counts at least this much, so a throttled phone is followed within tens."""

CLIP = math.log(1.6)
"""One evaluation moves an estimate as if it were off by this factor at most: another process may have had the core.
That makes an evaluation slower and never faster, so a slow one is doubted from the first on, a fast one only later."""

TRUSTED_AFTER = 3
"""Observations from which on an estimate is believed more than a single one, fast or slow."""


@dataclass(slots=True)
class Estimate:
    """The logarithm of a time, or of a ratio of times."""

    value: float
    count: int = 1
    recent: int = 1
    """Evaluations in this run, older ones counting less and less."""
    shown: float = math.inf
    """The value that the curve shows."""

    def update(self, observed: float) -> None:
        """Learn one more; the logarithm of it."""
        observed = min(observed, self.value + CLIP)
        if self.count >= TRUSTED_AFTER:
            observed = max(observed, self.value - CLIP)
        self.count += 1
        self.recent += 1
        self.value += (observed - self.value) * max(1.0 / self.count, _LEAST_WEIGHT)
