"""Typical acceptance (Medusa, arXiv 2401.10774, section 2.3): draft tokens that are likely enough are taken.

It is lossy: the text is not the one that the target draws alone. Only who asks for it gets it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgespec.decode.sampling import Floats

EPSILON = 0.09
"""The probability from which a draft token is always taken: the paper's epsilon, as its authors' program sets it."""

DELTA = 0.3
"""The paper's delta: where the target is unsure, with an entropy H, a probability above delta * exp(-H) is enough."""


def threshold(probabilities: Floats) -> float:
    """The probability above which a draft token is taken: min(epsilon, delta * exp(-H)), H the entropy in nats."""
    positive = probabilities[probabilities > 0.0]
    entropy = -float((positive * np.log(positive)).sum())
    return min(EPSILON, DELTA * math.exp(-entropy))


def typical_choice(logits: Floats, drafted: Sequence[int]) -> int | None:
    """The likeliest of `drafted` (indices of `logits`, which are divided by the temperature already), if it is taken.

    None where none is above the threshold, or the logits are no numbers.
    """
    peak = logits.max()
    if not math.isfinite(peak):
        return None
    masses = np.exp(logits.astype(np.float64) - peak)
    probabilities = masses / masses.sum()
    best = max(drafted, key=lambda index: float(probabilities[index]))
    return best if probabilities[best] > threshold(probabilities) else None
