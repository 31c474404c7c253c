"""Made-up curves T(n), and chains, for tests of the policy and what it stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from edgespec.core import Draft
from edgespec.latency.model import LatencyModel


def chain(tokens: Sequence[int], probability: float = 0.8, drafter: str = "scripted") -> Draft:
    return Draft.chain(tokens, [probability] * len(tokens), ["kind"] * len(tokens), drafter)


def curve(ratio: Callable[[int], float], sizes: Iterable[int] = range(2, 33)) -> LatencyModel:
    cost = LatencyModel(64)
    for _ in range(5):
        cost.observe(1, 0.01)
        for n in sizes:
            cost.observe(n, 0.01 * ratio(n))
    return cost


def flat(n: int) -> float:
    return 1.0 + 0.02 * (n - 1)


def steep(n: int) -> float:
    return 1.0 + 0.9 * (n - 1)
