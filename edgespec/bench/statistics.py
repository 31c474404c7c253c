"""Medians of paired ratios, and how sure they are."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

_RESAMPLINGS = 4000


def interval(values: Sequence[float]) -> list[float]:
    """The 95% interval of the median, by the bootstrap (Efron 1979)."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (_RESAMPLINGS, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return [float(low), float(high)]


def summary(ratios: Sequence[float]) -> dict[str, Any]:
    """Median, interval and spread of paired ratios."""
    return {
        "median": statistics.median(ratios),
        "interval": interval(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "pairs": len(ratios),
    }
