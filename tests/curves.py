"""Made-up curves T(n), and chains, for tests of the policy and what it stands on."""

from __future__ import annotations

from edgespec.core import Draft
from edgespec.latency.model import LatencyModel


def chain(tokens, probability=0.8, drafter="scripted"):
    return Draft.chain(tokens, [probability] * len(tokens), ["kind"] * len(tokens), drafter)


def curve(ratio, sizes=range(2, 33)) -> LatencyModel:
    cost = LatencyModel(64)
    for _ in range(5):
        cost.observe(1, 0.01)
        for n in sizes:
            cost.observe(n, 0.01 * ratio(n))
    return cost


def flat(n):
    return 1.0 + 0.02 * (n - 1)


def steep(n):
    return 1.0 + 0.9 * (n - 1)
