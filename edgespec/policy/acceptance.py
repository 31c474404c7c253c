"""How often drafted tokens are right, learned from what the target said instead."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any

from edgespec.core import Draft, verified
from edgespec.policy.config import PolicyConfig

_WINDOW = 32.0
"""The last draft tokens of a feature bucket that are held against those before them."""

_TOGETHER = "+"
"""The name of the record of merged trees; no drafter is called that."""


class _Counts:
    """Draft tokens of one feature bucket: how many were right, and how many were verified."""

    __slots__ = ("config", "late", "late_right", "right", "verified")

    def __init__(self, config: PolicyConfig, right: float = 0.0, verified: float = 0.0) -> None:
        self.config = config
        self.right = right
        self.verified = verified
        self.late_right = 0.0  # of the last ones, which `right` and `verified` count too
        self.late = 0.0

    def estimate(self, prior: float) -> float:
        strength = self.config.prior_strength
        return (self.right + strength * prior) / (self.verified + strength)

    def add(self, right: int, count: int = 1) -> None:
        if self.verified >= self.config.memory:
            self.fade(0.5)
        self.right += right
        self.verified += count
        self.late_right += right
        self.late += count
        if self.late >= _WINDOW:
            self._notice()

    def _notice(self) -> None:
        """Forget what was before, if the last ones were right far more or far less often."""
        earlier = self.verified - self.late
        if earlier > 0.0:
            share = (self.right + 1.0) / (self.verified + 2.0)
            off = self.late_right / self.late - (self.right - self.late_right) / earlier
            if off**2 > self.config.change**2 * share * (1.0 - share) * (1.0 / self.late + 1.0 / earlier):
                self.right, self.verified = self.late_right, self.late
        self.late_right = self.late = 0.0

    def fade(self, share: float) -> None:
        self.right *= share
        self.verified *= share
        self.late_right *= share
        self.late *= share

    def keep(self, most: float) -> None:
        if self.verified > most:
            self.fade(most / self.verified)

    def kept(self, most: float) -> _Counts:
        """A copy of which no more than that is believed."""
        copy = _Counts(self.config, self.right, self.verified)
        copy.late_right, copy.late = self.late_right, self.late
        copy.keep(most)
        return copy


class Acceptance:
    """How often draft tokens of each drafter and feature bucket are right, given that those before them were."""

    def __init__(self, config: PolicyConfig | None = None) -> None:
        self._config = config or PolicyConfig()
        self._counts: dict[str, dict[Hashable, _Counts]] = {}
        self._last: ChainAcceptance | None = None

    def estimate(self, drafter: str, bucket: Hashable, prior: float) -> float:
        """The probability that a draft token of this bucket is right; `prior` is the drafter's own estimate."""
        counts = self._counts.get(drafter, {}).get(bucket)
        return counts.estimate(prior) if counts else prior

    def estimates(self, draft: Draft) -> list[float]:
        """The same for every node of a draft."""
        by_bucket = self._counts.get(draft.drafter, {})
        if not draft.is_chain:  # the buckets of a chain often stay the same
            counts_of = map(by_bucket.get, draft.buckets)
            return [
                counts.estimate(prior) if counts else prior
                for counts, prior in zip(counts_of, draft.probabilities, strict=True)
            ]
        estimates: list[float] = []
        for (bucket, prior), nodes in groupby(zip(draft.buckets, draft.probabilities, strict=True)):
            counts = by_bucket.get(bucket)
            estimates += [counts.estimate(prior) if counts else prior] * len(list(nodes))
        return estimates

    def weight(self, drafter: str, bucket: Hashable) -> float:
        """How many draft tokens of this bucket are remembered."""
        counts = self._counts.get(drafter, {}).get(bucket)
        return counts.verified if counts else 0.0

    def together(self, tree: Draft) -> list[float]:
        """The probabilities of a merged tree's nodes: where several drafters go on, by what became of that before."""
        counts_of = map(self._counts.get(_TOGETHER, {}).get, tree.buckets)
        return [
            counts.estimate(prior) if counts else prior
            for counts, prior in zip(counts_of, tree.probabilities, strict=True)
        ]

    def observe(self, draft: Draft, emitted: Sequence[int]) -> None:
        """Learn from a proposal and the tokens that the target emitted instead.

        Of a merged tree that is what became of nodes where several drafters go on.
        """
        by_bucket = self._counts.setdefault(_TOGETHER if draft.authors else draft.drafter, {})
        results = [(draft.buckets[node], right) for node, right in verified(draft, emitted)]
        if draft.authors:
            results = [(bucket, right) for bucket, right in results if bucket is not None]
        for (bucket, right), nodes in groupby(results):
            counts = by_bucket.get(bucket)
            if counts is None:
                counts = by_bucket[bucket] = _Counts(self._config)
            count = len(list(nodes))
            counts.add(count if right else 0, count)

    def begin(self) -> ChainAcceptance:
        """Another answer begins: its chains, believed to be a little like those of the answer before."""
        for by_bucket in self._counts.values():
            for counts in by_bucket.values():
                counts.keep(self._config.carried)
        self._last = ChainAcceptance(self._config, self._last)
        return self._last

    def as_json(self, drafter: str) -> dict[str, Any]:
        """What a later run can start from, for a drafter whose buckets are plain values or tuples of them."""
        by_bucket = self._counts.get(drafter, {})
        return {"kinds": [[bucket, counts.right, counts.verified] for bucket, counts in by_bucket.items()]}

    def restore(self, drafter: str, stored: Mapping[str, Any]) -> None:
        """Start from what an earlier run left, believed less than it was then. Raises ValueError on nonsense.

        Files call the feature buckets `kinds`.
        """
        by_bucket: dict[Hashable, _Counts] = {}
        for stored_bucket, right, count in stored["kinds"]:
            if not 0.0 <= right <= count < math.inf:
                raise ValueError(f"a stored feature bucket of which {right} of {count} draft tokens were right")
            bucket = tuple(stored_bucket) if isinstance(stored_bucket, list) else stored_bucket
            counts = by_bucket[bucket] = _Counts(self._config, float(right), float(count))
            counts.keep(self._config.carried)
        self._counts[drafter] = by_bucket


class ChainAcceptance:
    """How far the chains of each drafter come true in one answer, beginning with a little of the last one."""

    def __init__(self, config: PolicyConfig, before: ChainAcceptance | None = None) -> None:
        self._config = config
        self._depths: dict[str, list[_Counts]] = {}
        self._faded: dict[str, float] = {}  # what is to be left of those when they are looked at
        for drafter in before._depths if before else ():
            self._depths[drafter] = [counts.kept(config.carried) for counts in before._depths_of(drafter)]  # type: ignore[union-attr]

    def by_depth(self, drafter: str, count: int, prior: float) -> list[float]:
        """The probabilities that this drafter's first, second, ... draft token is right, before they are made.

        A depth that was seldom reached is taken for the one before it.
        """
        probabilities: list[float] = []
        for counts in self._depths_of(drafter)[:count]:
            prior = counts.estimate(prior)
            probabilities.append(prior)
        return probabilities + [prior] * (count - len(probabilities))

    def observe(self, chain: Draft, emitted: Sequence[int]) -> None:
        """Learn from a proposal and the tokens that the target emitted instead."""
        depths = self._depths_of(chain.drafter)
        for node, right in verified(chain, emitted):
            if node == len(depths):
                depths.append(_Counts(self._config))
            depths[node].add(right)

    def fade(self, drafter: str) -> None:
        """Trust `by_depth` a little less: a drafter that is not asked is not verified, and may have got better."""
        self._faded[drafter] = self._faded.get(drafter, 1.0) * (1.0 - 1.0 / self._config.memory)

    def _depths_of(self, drafter: str) -> list[_Counts]:
        depths = self._depths.setdefault(drafter, [])
        share = self._faded.pop(drafter, 1.0)
        if share < 1.0:
            for counts in depths:
                counts.fade(share)
        return depths
