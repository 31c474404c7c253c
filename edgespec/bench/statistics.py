"""Medians of paired ratios, and their confidence intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

_RESAMPLINGS = 4000


def summary(prompts: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The median over prompts of each one's median ratio, and its 95% interval.

    The interval is of a bootstrap in two steps (Davison and Hinkley 1997, section 3.8): prompts are drawn, then rounds
    of each. A prompt that was answered more often counts no more than another.
    """
    medians = [statistics.median(ratios) for ratios in prompts]
    random = np.random.default_rng(0)
    redrawn = np.stack(
        [np.median(random.choice(np.asarray(ratios), (_RESAMPLINGS, len(ratios))), axis=1) for ratios in prompts]
    )
    chosen = random.integers(0, len(prompts), (len(prompts), _RESAMPLINGS))
    drawn = np.median(np.take_along_axis(redrawn, chosen, axis=0), axis=0)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"median": statistics.median(medians), "interval": [float(low), float(high)]}


def surely_below(ratios: Sequence[float], bound: float) -> bool:
    """Whether the 95% interval of one prompt's median ratio lies wholly below `bound`.

    The interval is the bootstrap's percentiles (Davison and Hinkley 1997, section 5.3) over the rounds of that prompt.
    `summary` cannot show this: with few prompts, the upper end of its interval is about the best of them, however slow
    the others are. Of prompts that are exactly at the bound, 1 of 40 would be counted by chance; with 5 rounds,
    where the interval is from the slowest to the fastest, 1 of 32; with fewer rounds more, with one round half.
    """
    return bool(summary([ratios])["interval"][1] < bound)
